import pytest
import torch

from scene4d.geometry.alignment import align_points
from scene4d.geometry.cameras import (
    camera_spread,
    invert_rigid,
    normalise_scene,
    pixel_rays,
    project,
    relative_to_first,
    scale_cameras,
    unproject,
)
from scene4d.geometry.pose_encoding import decode_pose, encode_pose
from scene4d.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_multiply,
    quaternion_to_matrix,
    rotation_angle,
)
from scene4d.types import Cameras


def make_cameras(*shape, height=12, width=20):
    generator = torch.Generator().manual_seed(0)
    c2w = torch.eye(4).repeat(*shape, 1, 1)
    c2w[..., :3, :3] = quaternion_to_matrix(torch.randn(*shape, 4, generator=generator))
    c2w[..., :3, 3] = torch.randn(*shape, 3, generator=generator)
    intrinsics = torch.tensor([[17.0, 0, width / 2], [0, 15.0, height / 2], [0, 0, 1]]).repeat(*shape, 1, 1)
    return Cameras(c2w, intrinsics)


def make_depths(*shape):
    return 1 + torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_quaternions_round_trip():
    quats = torch.nn.functional.normalize(torch.randn(200, 4, dtype=torch.float64), dim=-1)
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    matrices = quaternion_to_matrix(quats)
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(matrix_to_quaternion(matrices), quats, atol=1e-10)


@pytest.mark.parametrize("diagonal", [(1.0, 1, 1), (1.0, -1, -1), (-1.0, 1, -1), (-1.0, -1, 1)])
def test_half_turns_have_quaternions_and_finite_gradients(diagonal):
    matrix = torch.diag(torch.tensor(diagonal)).requires_grad_()
    quats = matrix_to_quaternion(matrix)
    assert torch.allclose(quaternion_to_matrix(quats), matrix, atol=1e-6)
    quats.sum().backward()
    assert matrix.grad.isfinite().all()


def test_quaternion_product_is_the_matrix_product():
    first, second = torch.randn(2, 50, 4, dtype=torch.float64)
    product = quaternion_to_matrix(quaternion_multiply(first, second))
    assert torch.allclose(product, quaternion_to_matrix(first) @ quaternion_to_matrix(second))


@pytest.mark.parametrize("degrees", [0.0, 0.01, 40.0, 179.0])
def test_rotation_angle(degrees):
    half = torch.deg2rad(torch.tensor(degrees / 2, dtype=torch.float64))
    turn = quaternion_to_matrix(torch.stack([half.cos(), 0 * half, half.sin(), 0 * half]))
    base = quaternion_to_matrix(torch.randn(4, dtype=torch.float64))
    assert float(rotation_angle(base, base @ turn)) == pytest.approx(degrees, abs=1e-5)


def test_pixel_centres_lie_at_one_half():
    rays = pixel_rays(make_cameras(1).intrinsics, 12, 20)
    assert torch.allclose(rays[0, 0, 0], torch.tensor([(0.5 - 10) / 17, (0.5 - 6) / 15, 1.0]))
    assert torch.allclose(rays[0, 5:7, 9:11].mean((0, 1)), torch.tensor([0.0, 0, 1]))  # around the centre


def test_unproject_then_project_returns_pixels_and_depth():
    cameras, depths = make_cameras(2, 3), make_depths(2, 3, 12, 20)
    pixels, z = project(unproject(depths, cameras).flatten(-3, -2), cameras)
    v, u = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    assert torch.allclose(pixels, torch.stack([u, v], -1).flatten(0, 1).expand_as(pixels), atol=1e-4)
    assert torch.allclose(z, depths.flatten(-2), atol=1e-5)


def test_points_behind_the_camera_keep_their_sign_and_finite_gradients():
    cameras = Cameras(torch.eye(4), make_cameras(1).intrinsics[0])
    points = torch.tensor([[0.0, 0, -2], [0.0, 0, 0]], requires_grad=True)
    pixels, z = project(points, cameras)
    assert z.tolist() == [-2.0, 0.0]
    pixels.sum().backward()
    assert points.grad.isfinite().all()


def test_inverse_and_relative_poses():
    cameras = make_cameras(2, 4)
    assert torch.allclose(invert_rigid(cameras.c2w), torch.linalg.inv(cameras.c2w), atol=1e-5)
    relative = relative_to_first(cameras.c2w)
    assert torch.allclose(relative[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-6)
    assert torch.allclose(cameras.c2w[:, :1] @ relative, cameras.c2w, atol=1e-5)


def test_normalised_scene_ignores_unit_world_and_targets():
    cameras, depths = make_cameras(2, 4), make_depths(2, 4, 2, 12, 20)
    depths[:, :, :, :3] = 0  # unknown
    plain_depths, plain, _ = normalise_scene(depths, cameras, inputs=3)
    changed = depths * 7
    changed[:, 3] *= 2  # a target, which must not set the unit
    world = make_cameras(1).c2w
    moved = Cameras(world @ scale_cameras(cameras, torch.full((2,), 7.0)).c2w, cameras.intrinsics)
    new_depths, new, scale = normalise_scene(changed, moved, inputs=3)
    assert torch.allclose(new_depths[:, :3], plain_depths[:, :3], atol=1e-5)
    assert torch.allclose(new.c2w, plain.c2w, atol=1e-4)
    assert torch.allclose(new.c2w[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5)
    per_frame = Cameras(plain.c2w[:, :3, None], plain.intrinsics[:, :3, None])
    distance = unproject(plain_depths[:, :3], per_frame).norm(dim=-1)
    assert torch.allclose(distance[plain_depths[:, :3] > 0].mean(), torch.tensor(1.0), atol=1e-2)


def test_scenes_without_depth_need_predicted_cameras():
    """One scene with depth beside one without: its cameras once came out a million times too far apart."""
    cameras, depths = make_cameras(2, 4), make_depths(2, 4, 1, 12, 20)
    depths[1] = 0
    with pytest.raises(ValueError, match=r"scenes \[1\].*no unit of length"):
        normalise_scene(depths, cameras)
    predicted = scale_cameras(cameras, torch.tensor([3.0, 0.2]))
    new_depths, new, scale = normalise_scene(depths, cameras, predicted=predicted)
    assert torch.allclose(scale[1], torch.tensor(5.0))
    assert torch.equal(scale[:1], normalise_scene(depths[:1], cameras[:1])[2]) and not new_depths[1].any()
    assert torch.allclose(camera_spread(new.c2w)[1], camera_spread(predicted.c2w)[1])
    same_place = Cameras(cameras.c2w[:, :1].expand(2, 4, 4, 4), cameras.intrinsics)
    with pytest.raises(ValueError, match="share one place"):
        normalise_scene(depths, same_place, predicted=predicted)


def test_pose_encoding_round_trip_and_order():
    cameras = make_cameras(2, 3)
    encoding = encode_pose(cameras, 12, 20)
    decoded = decode_pose(encoding, 12, 20)
    assert torch.allclose(decoded.c2w, cameras.c2w, atol=1e-5)
    assert torch.allclose(decoded.intrinsics, cameras.intrinsics, atol=1e-4)
    identity = Cameras(torch.eye(4), cameras.intrinsics[0, 0])
    expected = [
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        2 * torch.atan(torch.tensor(6 / 15)),
        2 * torch.atan(torch.tensor(10 / 17)),
    ]
    assert torch.allclose(encode_pose(identity, 12, 20), torch.tensor(expected))  # XYZW, then (h, w)


def test_pose_encoding_is_world_to_camera():
    c2w = torch.eye(4)
    c2w[2, 3] = 3.0  # three units forward, so the world's origin lies three units behind
    encoding = encode_pose(Cameras(c2w, make_cameras(1).intrinsics[0]), 12, 20)
    assert encoding[:3].tolist() == [0, 0, -3]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_alignment_finds_a_similarity(scale):
    source = torch.randn(3, 40, 3, dtype=torch.float64)
    rotation = quaternion_to_matrix(torch.randn(3, 4, dtype=torch.float64))
    target = scale * source @ rotation.mT + torch.tensor([1.0, 2, 3], dtype=torch.float64)
    weights = torch.ones(3, 40, dtype=torch.float64)
    target[:, 0] += 100  # an outlier that the weights leave out
    weights[:, 0] = 0
    found_scale, found, translation = align_points(source, target, weights, with_scale=scale != 1)
    assert torch.allclose(found, rotation) and torch.allclose(found_scale, torch.full((3,), scale).double())
    assert torch.allclose(translation, torch.tensor([1.0, 2, 3], dtype=torch.float64).expand(3, 3))
