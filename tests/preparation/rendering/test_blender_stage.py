"""What Blender shows of a GLB file: only its default scene, and at rest what a clip does not key."""

import numpy as np
import pytest
from small_glb import TRIANGLE, SmallGlb

pytest.importorskip("bpy")
from preparation.rendering.blender_stage import load, play, vertices  # noqa: E402

pytestmark = pytest.mark.slow  # Blender starts
MORPH = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 5]], np.float32)
REST = [
    {"mesh": 0},
    {"mesh": 0, "translation": [3, 0, 0]},
    {"mesh": 0, "translation": [6, 0, 0], "scale": [2, 2, 2]},
]


def in_blender(points):
    """glTF is y up, Blender z up."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], 1)


def shown(clip, share):
    """Vertices of every triangle."""
    return vertices(clip.start + share * (clip.end - clip.start)).reshape(-1, 3, 3)


@pytest.fixture
def clips(tmp_path):
    glb = SmallGlb()
    glb.animate(
        "a",
        (0, "translation", [0, 1], [[0, 0, 0], [0, 4, 0]]),
        (1, "translation", [0, 1], [[3, 0, 0], [3, 5, 0]]),
        (1, "weights", [0, 1], [0, 1]),
        (2, "scale", [0, 1], [[2, 2, 2], [9, 9, 9]]),
    )
    glb.animate(
        "b", (0, "translation", [1, 3], [[0, 0, 0], [0, 8, 0]]), (2, "scale", [2, 3], [[2, 2, 2], [4, 4, 4]])
    )
    return load(glb.write(tmp_path / "a.glb", REST, morph=MORPH))


def test_what_a_clip_does_not_key_is_at_rest(clips):
    a, b = clips
    assert [clip.animation.name for clip in clips] == ["a", "b"] and (b.start, b.end) == (24, 72)
    play(a)
    moved = shown(a, 1.0)
    np.testing.assert_allclose(moved[1], in_blender(TRIANGLE + MORPH + [3, 5, 0]), atol=1e-5)
    play(b)
    for share, height, scale in ((0.0, 0, 2), (0.5, 4, 2), (0.75, 6, 3), (1.0, 8, 4)):
        found = shown(b, share)
        np.testing.assert_allclose(found[0], in_blender(TRIANGLE + [0, height, 0]), atol=1e-4)
        np.testing.assert_allclose(found[1], in_blender(TRIANGLE + [3, 0, 0]), atol=1e-5)  # was 5.04 off
        np.testing.assert_allclose(found[2], in_blender(TRIANGLE * scale + [6, 0, 0]), atol=1e-4)


def test_only_the_default_scene_counts(tmp_path):
    glb = SmallGlb()
    glb.animate(
        "a", (1, "translation", [0, 1], [[0, 0, 0], [0, 1, 0]]), (3, "translation", [0, 1], [[50] * 3] * 2)
    )
    nodes = [
        {"mesh": 0, "translation": [100, 0, 0]}, {"mesh": 0}, {"mesh": 0, "translation": [0, 300, 0]}, {"mesh": 0},
    ]  # fmt: skip
    scenes = [{"nodes": [0]}, {"nodes": [1]}]
    (clip,) = load(glb.write(tmp_path / "a.glb", nodes, scene=1, scenes=scenes))
    play(clip)
    np.testing.assert_allclose(shown(clip, 1.0), in_blender(TRIANGLE + [0, 1, 0])[None], atol=1e-5)
