from dataclasses import dataclass

import numpy as np
import pytest

from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic import rooms
from preparation.synthetic.command import SceneSet
from preparation.synthetic.stage import RejectedScene
from preparation.synthetic.surfaces import texture_files


@dataclass(frozen=True)
class WalkingBox:
    """A flat box that walks along x."""

    key: str
    license: str = "CC0-1.0, test"

    @property
    def unit(self):
        return self.key

    @property
    def label(self):
        return self.key.replace("_", " ")

    @property
    def group(self):
        return f"group-{self.key}"

    def times(self, rng, frames, fps):
        return np.arange(frames)

    def meshes(self, times):
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 0.6) for z in (0, 1)], np.float32)
        faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [1, 5, 7], [1, 7, 3]], np.int32)
        return [[Mesh(corners + np.array([0.1 * t, 0, 5], np.float32), faces)] for t in range(len(times))]


@pytest.fixture
def walking_boxes():
    return tuple(WalkingBox(name) for name in ("red_box", "box", "crate"))


def make_scene(clips, texture_root):
    assets = rooms.RoomAssets(clips, tuple(texture_files([texture_root], "train")), "CC0-1.0, test")
    return list(SceneSet("rooms", "train", 0, assets, rooms.make_scene).read(0))[-1]


def test_scene_moves_on_a_wide_arc_with_depth_everywhere(walking_boxes, texture_root):
    scene = make_scene(walking_boxes, texture_root)
    assert scene.images.shape == (8, 9, 64, 64, 3) and scene.depths.shape == (8, 5, 64, 64)
    assert scene.depth_frames == [0, 2, 4, 6, 8] and scene.depths.min() > rooms.NEAREST
    flat = scene.c2w[[0, -1], :2, 2].astype(float)
    cosine = (flat[0] @ flat[1]) / np.linalg.norm(flat, axis=1).prod()
    assert rooms.ARC[0] - 0.5 < np.degrees(np.arccos(cosine)) < rooms.ARC[1] + 0.5
    assert np.abs(scene.images[:, 0].astype(float) - scene.images[:, -1]).max() > 30  # units move
    assert "in a room with a" in scene.caption and "_" not in scene.caption
    assert set(scene.group.split("+")) <= {clip.group for clip in walking_boxes}


def test_units_stand_on_the_floor(walking_boxes):
    frames = rooms.place_units(walking_boxes, np.random.default_rng(0))
    assert len(frames) == rooms.FRAMES
    for meshes in frames:
        heights = [np.ptp(mesh.vertices[:, 2]) for mesh in meshes]
        assert [mesh.vertices[:, 2].min() for mesh in meshes] == pytest.approx([0, 0, 0], abs=1e-5)
        assert max(heights) <= rooms.HEIGHTS[1] + 1e-5


def test_too_many_units_are_rejected(walking_boxes):
    with pytest.raises(RejectedScene, match="no free place"):
        rooms.place_units(walking_boxes * 20, np.random.default_rng(0))
