"""Files with known poses: animation of nodes, skins and morph targets."""

import numpy as np
import pytest
from small_glb import TRIANGLE, SmallGlb

from preparation.rendering.gltf_file import GltfFile
from preparation.rendering.gltf_model import GltfModel
from preparation.rendering.gltf_pose import Channel

HALF = np.sqrt(0.5)


def up(points):
    """glTF is y up."""
    points = np.asarray(points, float)
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], -1)


def posed(path, times, number=0):
    """Vertices of the only part at every instant."""
    file = GltfFile(path)
    animations = sorted(file.animations(), key=lambda clip: clip.index)
    frames = GltfModel(file).posed(animations[number] if animations else None, np.asarray(times, float))
    return np.stack([parts[0].vertices for parts in frames])


def test_nodes_move_by_all_interpolations(tmp_path):
    glb = SmallGlb()
    glb.animate("linear", (0, "translation", [1, 3], [[0, 0, 0], [4, 0, 0]]))
    glb.animate("step", (0, "scale", [0, 1], [[1, 1, 1], [3, 3, 3]], "STEP"))
    spline = [[0, 0, 0], [0, 0, 0], [6, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0]]  # leaves with 6 per second
    glb.animate("spline", (0, "translation", [0, 1], spline, "CUBICSPLINE"))
    path = glb.write(tmp_path / "a.glb", [{"mesh": 0}])
    for time, moved in ((0, 0), (1, 0), (1.5, 1), (3, 4), (9, 4)):
        np.testing.assert_allclose(posed(path, [time])[0], up(TRIANGLE + [moved, 0, 0]), atol=1e-6)
    for time, scale in ((0, 1), (0.999, 1), (1, 3), (2, 3)):
        np.testing.assert_allclose(posed(path, [time], 1)[0], up(TRIANGLE * scale), atol=1e-6)
    half = 0.5 * 2 + 0.125 * 6  # h01(1/2) p1 + h10(1/2) m0
    np.testing.assert_allclose(posed(path, [0.5], 2)[0], up(TRIANGLE + [half, 0, 0]), atol=1e-6)


def test_rotations_take_the_shorter_arc_at_even_speed(tmp_path):
    glb = SmallGlb()
    far = [0, 0, -HALF, -HALF]  # a quarter turn about z, with the other sign
    glb.animate("a", (0, "rotation", [0, 1], [[0, 0, 0, 1], far]))
    path = glb.write(tmp_path / "a.glb", [{"mesh": 0}])
    for share in (0.25, 0.5, 1.0):
        c, s = np.cos(share * np.pi / 2), np.sin(share * np.pi / 2)
        turned = TRIANGLE @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        np.testing.assert_allclose(posed(path, [share])[0], up(turned), atol=1e-6)


def test_children_follow_and_only_the_default_scene_shows(tmp_path):
    glb = SmallGlb()
    glb.animate("a", (1, "translation", [0, 1], [[0, 0, 0], [0, 2, 0]]))
    nodes = [
        {"mesh": 0, "translation": [1, 0, 0]}, {"children": [0], "scale": [2, 2, 2]}, {"mesh": 0},
        {"children": [1], "matrix": [0, 0, -1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 5, 1]},
    ]  # fmt: skip
    path = glb.write(tmp_path / "a.glb", nodes, scenes=[{"nodes": [2]}, {"nodes": [3]}], scene=1)
    inner = (TRIANGLE + [1, 0, 0]) * 2 + [0, 2, 0]
    outer = np.stack([inner[:, 2], inner[:, 1], 5 - inner[:, 0]], 1)  # columns (0 0 -1), (0 1 0), (1 0 0)
    np.testing.assert_allclose(posed(path, [1])[0], up(outer), atol=1e-6)
    assert len(GltfModel(GltfFile(path)).primitives) == 1


@pytest.mark.parametrize(("kind", "top"), [(np.float32, 1.0), (np.uint8, 255), (np.uint16, 65535)])
def test_skins_blend_joints_of_both_sets_and_forget_their_own_node(tmp_path, kind, top):
    """Half of the last vertex hangs on joint 1, a quarter each on joints 2 and 0, of the second set."""
    glb = SmallGlb()
    first = glb.add([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], "VEC4", np.uint8)
    second = glb.add([[0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 9, 9]], "VEC4", np.uint16)  # 9: no joint, no weight
    share = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0, 0, 0]]) * top
    rest = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0.25, 0.25, 0, 0]]) * top
    normalized = {} if kind is np.float32 else {"normalized": True}
    weights = [glb.add(np.floor(w) if normalized else w, "VEC4", kind, **normalized) for w in (share, rest)]
    bind = np.tile(np.eye(4), (3, 1, 1))
    bind[1, :3, 3] = [-1, 0, 0]  # joint 1 rests at (1, 0, 0)
    matrices = glb.add(bind.transpose(0, 2, 1).reshape(3, 16), "MAT4")
    glb.animate("a", (2, "rotation", [0, 1], [[0, 0, 0, 1], [0, 0, HALF, HALF]]),
                (3, "translation", [0, 1], [[0, 0, 0], [0, 0, 8]]))  # fmt: skip
    nodes = [
        {"mesh": 0, "skin": 0, "translation": [99, 9, 9]}, {}, {"translation": [1, 0, 0]}, {},
    ]  # fmt: skip
    attributes = {"JOINTS_0": first, "WEIGHTS_0": weights[0], "JOINTS_1": second, "WEIGHTS_1": weights[1]}
    skin = {"joints": [1, 2, 3], "inverseBindMatrices": matrices}
    path = glb.write(tmp_path / "a.glb", nodes, attributes=attributes, skins=[skin])
    still, turned = posed(path, [0, 1])
    np.testing.assert_allclose(still, up(TRIANGLE), atol=1e-2 if normalized else 1e-6)
    by_joint_1 = np.array([0, -1, 0])  # (0, 1, 0) about (1, 0, 0) by a quarter turn
    last = 0.5 * by_joint_1 + 0.25 * (TRIANGLE[2] + [0, 0, 8]) + 0.25 * TRIANGLE[2]
    np.testing.assert_allclose(turned, up([[0, 0, 0], [1, 0, 0], last]), atol=3e-2 if normalized else 1e-6)


def test_vertices_that_no_joint_holds_follow_their_first(tmp_path):
    glb = SmallGlb()
    joints = glb.add([[1, 0, 0, 0]] * 3, "VEC4", np.uint8)
    weights = glb.add([[0, 0, 0, 0], [np.nan] * 4, [1, 0, 0, 0]], "VEC4")
    nodes = [{"mesh": 0, "skin": 0}, {}, {"translation": [0, 0, 2]}]
    path = glb.write(tmp_path / "a.glb", nodes, attributes={"JOINTS_0": joints, "WEIGHTS_0": weights},
                     skins=[{"joints": [1, 2]}])  # fmt: skip
    np.testing.assert_allclose(posed(path, [0])[0], up(TRIANGLE + [0, 0, 2]), atol=1e-6)


def test_morph_targets_rest_and_move(tmp_path):
    glb = SmallGlb()
    morph = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 5]], np.float32)
    glb.animate("a", (0, "weights", [0, 2], [0, 1]))
    glb.animate("b", (0, "translation", [0, 2], [[0, 0, 0]] * 2))
    path = glb.write(tmp_path / "a.glb", [{"mesh": 0, "weights": [0.5]}], morph=morph)
    np.testing.assert_allclose(posed(path, [1.5])[0], up(TRIANGLE + 0.75 * morph), atol=1e-6)
    np.testing.assert_allclose(posed(path, [1.5], 1)[0], up(TRIANGLE + 0.5 * morph), atol=1e-6)


def test_several_morph_targets_have_splines():
    values = np.zeros((2, 3, 2))
    values[1, 1] = [1, 3]
    channel = Channel(0, "weights", "CUBICSPLINE", np.array([0.0, 1.0]), values)
    np.testing.assert_allclose(channel.at(np.array([0.5, 1.0])), [[0.5, 1.5], [1, 3]])


def test_samplers_that_do_not_fit_are_named(tmp_path):
    glb = SmallGlb()
    glb.animate("a", (0, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]], "BEZIER"))
    with pytest.raises(ValueError, match="a.glb: animation 0 has a sampler of BEZIER, 2 keys"):
        posed(glb.write(tmp_path / "a.glb", [{"mesh": 0}]), [0])
