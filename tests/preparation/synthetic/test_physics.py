from itertools import product

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from preparation.synthetic.command import SceneSet
from preparation.synthetic.furniture import furniture_of_split, read_catalogues
from preparation.synthetic.stage import Assets, RejectedScene
from preparation.synthetic.surfaces import texture_files
from scene4d.sample_format import SceneSample, decode_sample, encode_sample

pytest.importorskip("pybullet", reason="pybullet has wheels for Linux x86-64, Python 3.10 and 3.11 only")
from preparation.synthetic import physics  # noqa: E402
from preparation.synthetic.physics import Body, simulate  # noqa: E402

CUBE = np.array(list(product((-0.2, 0.2), repeat=3)), np.float32)


def falling(height: float, spin: float = 0.0) -> Body:
    rest = np.array([0, 0, 0, 1.0])
    return Body(CUBE, np.array([0, 0, height]), rest, np.zeros(3), np.array([spin, 0, 0]))


def test_free_fall_follows_gravity():
    positions, _ = simulate([falling(5.0)], frames=7)
    time = np.arange(7) / 12
    assert positions[:, 0, 2] == pytest.approx(5 - physics.GRAVITY * time**2 / 2, abs=0.02)


def test_bodies_fall_bounce_and_come_to_rest_above_the_floor():
    positions, rotations = simulate([falling(1.0, spin=2.0)], frames=80)
    corners = CUBE @ rotations[:, 0].swapaxes(1, 2) + positions[:, 0, None]
    assert corners[..., 2].min() > -0.02
    assert np.diff(positions[:, 0, 2]).max() > 0.01, "it never bounced"
    assert np.abs(positions[-1] - positions[-12]).max() < 1e-3
    assert positions[-1, 0, 2] == pytest.approx(0.2, abs=0.01)


def test_rotations_are_orthonormal_and_bodies_collide():
    bodies = [falling(0.21), falling(1.2, spin=1.0)]
    positions, rotations = simulate(bodies, frames=40)
    assert rotations @ rotations.swapaxes(-1, -2) == pytest.approx(
        np.broadcast_to(np.eye(3), rotations.shape), abs=1e-6
    )
    assert np.linalg.norm(positions[:, 0] - positions[:, 1], axis=-1).min() > 0.3


def test_motionless_and_scattered_simulations_are_rejected():
    still = np.zeros((29, 2, 3))
    with pytest.raises(RejectedScene, match="nothing moves"):
        physics._check_motion(still)
    scattered = np.linspace(0, 5, 29)[:, None, None] * np.ones((29, 2, 3))
    with pytest.raises(RejectedScene, match="units from the middle"):
        physics._check_motion(scattered)


@pytest.fixture
def scene(furniture_root, texture_root) -> SceneSample:
    assets = Assets(
        tuple(furniture_of_split(read_catalogues(furniture_root), "train")),
        tuple(texture_files([texture_root], "train")),
        "CC0-1.0, test",
    )
    return list(SceneSet("physics", "train", 1, assets, physics.make_scene).read(0))[-1]


def test_scene_shows_motion_and_one_geometry(scene):
    assert scene.images.shape == (8, 29, 64, 64, 3) and scene.depths.shape == (8, 8, 64, 64)
    assert scene.caption.endswith("floor") and "falling on a" in scene.caption
    assert "CC-BY-3.0" in scene.license and len(scene.group.split("+")) >= 3
    change = np.abs(np.diff(scene.images.astype(float), axis=1)).mean((2, 3, 4))
    assert (change.max(1) > 0.3).all(), "a view without visible motion"
    sky = scene.depths[:, 0] == 0
    assert (scene.images[:, 0][sky].mean(-1) > 120).all()
    assert_views_agree(scene)
    decoded = decode_sample({"__key__": scene.key, **encode_sample(scene)})
    assert decoded.depths == pytest.approx(scene.depths, abs=1e-3)
    assert np.abs(decoded.images.astype(float) - scene.images).mean() < 4


def assert_views_agree(scene: SceneSample) -> None:
    """Depth of view 3 lands on that of view 4 within a pixel's slant, and shows the same colours there."""
    column, row = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    k = scene.intrinsics[0]
    rays = np.stack([(column - k[0, 2]) / k[0, 0], (row - k[1, 2]) / k[1, 1], np.ones((64, 64))], -1)
    depth = scene.depths[3, 0]
    world = (rays * depth[..., None])[depth > 0] @ scene.c2w[3, :3, :3].T + scene.c2w[3, :3, 3]
    camera = (world - scene.c2w[4, :3, 3]) @ scene.c2w[4, :3, :3]
    pixel = camera[:, :2] / camera[:, 2:] * k[[0, 1], [0, 1]] + k[:2, 2]
    inside = ((pixel > 0) & (pixel < 64)).all(1)
    x, y = pixel[inside].astype(int).T
    error = np.abs(camera[inside, 2] / np.maximum(scene.depths[4, 0][y, x], 1e-6) - 1)
    assert np.median(error) < 0.012
    smooth = uniform_filter(scene.images[[3, 4], 0].astype(float), (0, 3, 3, 0))
    first = smooth[0][depth > 0][inside]
    matched = np.abs(first - smooth[1][y, x])[error < 0.02].mean()
    shuffled = np.abs(first - smooth[1][y, x][::-1])[error < 0.02].mean()
    assert matched < 0.5 * shuffled
