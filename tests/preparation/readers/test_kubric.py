"""Kubric's raw renders and exported MOVi scenes: a points, and a plane of known depth."""

import json

import numpy as np
import pytest
from miniature import POINTS, SIZE, arc, draw, pixels, prove, read
from PIL import Image
from scipy.spatial.transform import Rotation

from preparation.readers.kubric import Kubric, planar_depth
from preparation.readers.movi import Movi

WIDTH, HEIGHT = SIZE[1], SIZE[0]
FOCAL = (35 / 32 * WIDTH,) * 2  # Kubric: focal length and sensor width in mm
MIDDLE = (WIDTH / 2, HEIGHT / 2)
CLIP = ("--size", "96", "--frames", "5")
NORMAL, OFFSET = np.array([0.1, -0.2, -1.0]), -1.0  # the plane NORMAL x = OFFSET behind the points


def moved(frame: int) -> np.ndarray:
    return POINTS + np.array([0.03, 0.02, -0.04]) * frame


def distance_to_plane(pose) -> np.ndarray:
    """Euclidean distance of the plane through every pixel's centre."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([(x - MIDDLE[0]) / FOCAL[0], (y - MIDDLE[1]) / FOCAL[1], np.ones_like(x)], -1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ pose[:3, :3].T
    return (OFFSET - NORMAL @ pose[:3, 3]) / (rays @ NORMAL)


def ray_lengths() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.sqrt(1 + ((x - MIDDLE[0]) / FOCAL[0]) ** 2 + ((y - MIDDLE[1]) / FOCAL[1]) ** 2)


def camera(poses) -> dict:
    """OpenGL axes, wxyz."""
    positions, quaternions = [], []
    for pose in poses:
        x, y, z, w = Rotation.from_matrix(pose[:3, :3] @ np.diag([1, -1, -1])).as_quat()
        positions.append(pose[:3, 3].tolist())
        quaternions.append([w, x, y, z])
    return {"focal_length": 35.0, "sensor_width": 32.0, "positions": positions, "quaternions": quaternions}


def picture(pose, frame) -> np.ndarray:
    return draw(pose, focal=FOCAL, centre=MIDDLE, points=moved(frame))


def write_render(folder, poses, planar=False):
    folder.mkdir(parents=True)
    for frame, pose in enumerate(poses):
        alpha = np.full((*SIZE, 1), 255, np.uint8)
        rgba = np.concatenate([picture(pose, frame), alpha], -1)
        Image.fromarray(rgba).save(folder / f"rgba_{frame:05d}.png")
        distance = (distance_to_plane(pose) / (ray_lengths() if planar else 1)).astype(np.float32)
        Image.fromarray(distance).save(folder / f"depth_{frame:05d}.tiff")
    (folder / "metadata.json").write_text(json.dumps({"camera": camera(poses)}))


def depth_error(sample) -> float:
    """Largest error in pixels when pixels of one view are moved to another camera by their depth.

    The plane tells where each pixel's point really is; both places are compared there.
    """
    errors = []
    for view in range(len(sample.c2w)):
        c2w, matrix = sample.c2w[view].astype(float), sample.intrinsics[view].astype(float)
        height, width = sample.images.shape[2:4]
        y, x = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1]], -1)
        rays = np.concatenate([rays, np.ones((height, width, 1))], -1)
        true = (OFFSET - NORMAL @ c2w[:3, 3]) / (rays @ c2w[:3, :3].T @ NORMAL)
        found = sample.depths[view, 0].astype(float)
        other = arc(4)[view + 1]  # none of the cameras that were written
        places = [
            pixels((rays * depth[..., None]).reshape(-1, 3) @ c2w[:3, :3].T + c2w[:3, 3], other,
                   matrix[[0, 1], [0, 1]], matrix[:2, 2])
            for depth in (true, found)
        ]  # fmt: skip
        errors.append(np.abs(places[0] - places[1]).max())
    return max(errors)


def test_points_and_depth_land_where_they_are_seen(tmp_path, record_property):
    root = tmp_path / "raw"
    for number, pose in enumerate(arc(3)):
        write_render(root / f"scene/view_{number}", [pose] * 5)
    for number in range(2):
        write_render(root / f"moving/view_{number}", arc(5))
    options = ("--view-pattern", "view_*", *CLIP)
    samples = read(Kubric, root, tmp_path / "out", *options)
    assert [sample.key for sample in samples] == ["kubric-scene-00000"]
    assert samples[0].view_names == ["view_0", "view_1", "view_2"]
    assert samples[0].depths.shape == (3, 2, 96, 96) and samples[0].depth_frames == [0, 4]
    prove(samples, tmp_path / "out", record_property, moved, limit=0.2)
    error = depth_error(samples[0])
    record_property("depth_reprojection_error_px", round(float(error), 3))
    assert error < 0.5  # the resized depth is the nearest pixel's
    skipped = json.loads((tmp_path / "out/reports/kubric-train-part-0-of-1.json").read_text())["skipped"]
    assert "the camera moves" in skipped["moving"]


def test_movi_points_and_depth(tmp_path, record_property):
    root = tmp_path / "raw"
    root.mkdir()
    pose = arc(3)[2]
    distance = distance_to_plane(pose)
    low, high = distance.min(), distance.max()
    stored = np.round((distance - low) / (high - low) * 65535).astype(np.uint16)
    features = {f"camera/{name}": np.array(value, np.float32) for name, value in camera([pose] * 5).items()}
    np.savez(
        root / "000000.npz", video=np.stack([picture(pose, k) for k in range(5)]),
        depth=np.stack([stored] * 5)[..., None], **features,
        **{"metadata/depth_range": np.array([low, high], np.float32)},
    )  # fmt: skip
    np.savez(root / "000001.npz", video=np.zeros(3))
    samples = read(Movi, root, tmp_path / "out", *CLIP)
    assert [sample.key for sample in samples] == ["movi-000000-00000"]
    prove(samples, tmp_path / "out", record_property, moved, limit=0.2)
    error = depth_error(samples[0])
    record_property("depth_reprojection_error_px", round(float(error), 3))
    assert error < 0.5
    skipped = json.loads((tmp_path / "out/reports/movi-train-part-0-of-1.json").read_text())["skipped"]
    assert "000001.npz: expected MOVi's features" in skipped["000001"]


def test_planar_depth_is_taken_as_it_is_and_the_wrong_reading_is_refused(tmp_path):
    """A wall at 5 became 4.35 to 5.00 when its planar depth was converted again."""
    for name, planar in (("planar", True), ("distance", False)):
        write_render(tmp_path / "raw" / name, [arc(3)[0]] * 5, planar)
    for name, other in (("planar", "distance"), ("distance", "planar")):
        output = tmp_path / f"as-{name}"
        (sample,) = read(Kubric, tmp_path / "raw", output, "--depth", name, *CLIP)
        assert sample.group == name and depth_error(sample) < 0.5
        skipped = json.loads((output / "reports/kubric-train-part-0-of-1.json").read_text())["skipped"]
        assert f"depth_00000.tiff: surfaces are flat if the depth is {other}, not if" in skipped[other]
        assert f"expected the option --depth {other}" in skipped[other]
    with pytest.raises(SystemExit, match="depth is 'z', expected one of"):
        read(Kubric, tmp_path / "raw", tmp_path / "no", "--depth", "z", *CLIP)


INTRINSICS = np.array([[35 / 32, 0, 0.5], [0, 35 / 32 * WIDTH / HEIGHT, 0.5], [0, 0, 1]])


def test_a_wall_at_five_stays_at_five():
    wall = np.full(SIZE, 5.0)
    np.testing.assert_allclose(planar_depth(wall * ray_lengths(), INTRINSICS, "distance", "a"), 5, rtol=1e-6)
    assert (planar_depth(wall, INTRINSICS, "planar", "a") == 5).all()
    with pytest.raises(ValueError, match="a: surfaces are flat if the depth is planar"):
        planar_depth(wall, INTRINSICS, "distance", "a")


def curved(kind):
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return {
        "bowl": 4 + x**2 + 2 * y**2,
        "noise": 4 + np.random.default_rng(0).random(SIZE),
        "background": np.where(x**2 + y**2 < 0.3, 4 + np.sin(3 * x), 1e10),
        "clipped background": np.where(x**2 + y**2 < 0.3, 4 + np.sin(3 * x), 20.0),
        "little": np.where((abs(x) < 0.2) & (abs(y) < 0.2), 5, 1e10),
        "nothing": np.zeros(SIZE),
    }[kind]


@pytest.mark.parametrize("kind", ["bowl", "noise", "background", "clipped background", "little", "nothing"])
@pytest.mark.parametrize("reading", ["distance", "planar"])
def test_curved_surfaces_and_background_raise_no_alarm(kind, reading):
    depth = planar_depth(curved(kind), INTRINSICS, reading, "a")
    assert np.isfinite(depth).all() and depth.shape == SIZE
