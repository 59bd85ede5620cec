import numpy as np
import pytest

from preparation.synthetic import static
from preparation.synthetic.command import SceneSet
from preparation.synthetic.furniture import load_model, read_catalogues
from preparation.synthetic.stage import Assets, RejectedScene
from preparation.synthetic.surfaces import texture_files

LAMPS = (np.array([[0, 0, 1]], np.float32), np.ones(1, np.float32))


def test_models_stand_on_the_floor_without_overlap(furniture_root):
    model = load_model(read_catalogues(furniture_root)[0])
    meshes = static.stand([model, model, model], np.random.default_rng(2), LAMPS)
    assert [mesh.vertices[:, 2].min() for mesh in meshes] == pytest.approx([0, 0, 0], abs=1e-5)
    centres = [mesh.vertices[:, :2].mean(0) for mesh in meshes]
    radii = [np.linalg.norm(m.vertices[:, :2] - c, axis=1).max() for m, c in zip(meshes, centres)]
    for a in range(3):
        for b in range(a):
            assert np.linalg.norm(centres[a] - centres[b]) > 0.99 * (radii[a] + radii[b])


def test_full_floor_is_rejected(furniture_root):
    model = load_model(read_catalogues(furniture_root)[0])
    with pytest.raises(RejectedScene, match="no free place"):
        static.stand([model] * 40, np.random.default_rng(0), LAMPS)


def test_room_scene_has_depth_everywhere(furniture_root, texture_root):
    assets = Assets(
        tuple(read_catalogues(furniture_root)), tuple(texture_files([texture_root], "train")), "CC0-1.0, test"
    )
    *_, scene = SceneSet("static", "train", 0, assets, static.make_scene).read(0)
    assert scene.images.shape == (8, 1, 64, 64, 3)
    assert scene.depths.min() > 0.3 and scene.depths.max() < 9
    assert "in a room with a" in scene.caption and "by Jane, CC-BY-3.0" in scene.license
    assert scene.images.std((2, 3)).mean() > 8
    neighbours = np.abs(scene.images[0].astype(float) - scene.images[1]).mean()
    ends = np.abs(scene.images[0].astype(float) - scene.images[7]).mean()
    assert ends > neighbours > 0
