"""Cameras between two worlds: a similarity is found exactly where it can be, and averaged where it cannot."""

import pytest
import torch
from textured_wall import make_batch

from scene4d.geometry.alignment import align_cameras
from scene4d.geometry.rotations import quaternion_to_matrix, rotation_angle
from scene4d.types import Cameras

TURN = quaternion_to_matrix(torch.tensor([0.3, -0.8, 0.4, 0.2]))


def moved(cameras: Cameras, unit: float = 7.0) -> Cameras:
    """The same cameras in a world that is turned, shifted and measured in another unit."""
    c2w = cameras.c2w.clone()
    c2w[..., :3, :3] = TURN @ cameras.c2w[..., :3, :3]
    c2w[..., :3, 3] = unit * cameras.c2w[..., :3, 3] @ TURN.T + torch.tensor([5.0, -3, 2])
    return Cameras(c2w, cameras.intrinsics)


def line(cameras: Cameras) -> Cameras:
    """Parallel cameras on a line: their places alone leave a turn about it open."""
    c2w = torch.eye(4).repeat(*cameras.c2w.shape[:2], 1, 1)
    c2w[..., 0, 3] = torch.arange(cameras.c2w.shape[1]).float()
    return Cameras(c2w, cameras.intrinsics)


@pytest.mark.parametrize("shape", [lambda x: x, line])
@pytest.mark.parametrize("inputs", [2, 4])
def test_a_similarity_is_found_exactly(shape, inputs):
    cameras = shape(make_batch(b=2, inputs=4).cameras)
    world = moved(cameras)
    found = align_cameras(cameras[:, inputs:], cameras[:, :inputs], world[:, :inputs])
    torch.testing.assert_close(found.c2w, world.c2w[:, inputs:], rtol=1e-4, atol=1e-4)
    assert found.intrinsics is cameras[:, inputs:].intrinsics or torch.equal(
        found.intrinsics, cameras.intrinsics[:, inputs:]
    )


def test_views_in_one_place_need_the_unit_from_elsewhere():
    cameras = make_batch().cameras
    world = moved(cameras, 3.0)
    found = align_cameras(cameras, cameras[:, :1], world[:, :1], torch.tensor([3.0]))
    torch.testing.assert_close(found.c2w, world.c2w, rtol=1e-4, atol=1e-4)
    kept = align_cameras(cameras, cameras[:, :1], moved(cameras, 1.0)[:, :1])
    torch.testing.assert_close(kept.c2w, moved(cameras, 1.0).c2w, rtol=1e-4, atol=1e-4)


def test_a_unit_that_is_unknown_for_a_scene_is_found():
    cameras = make_batch(b=2).cameras
    world = moved(cameras, 3.0)
    found = align_cameras(cameras[:, 3:], cameras[:, :3], world[:, :3], torch.tensor([torch.nan, 6.0]))
    torch.testing.assert_close(found.c2w[0], world.c2w[0, 3:], rtol=1e-4, atol=1e-4)
    middle = world.c2w[1, :3, :3, 3].mean(0)
    apart = found.c2w[1, :, :3, 3] - middle
    torch.testing.assert_close(apart, 2 * (world.c2w[1, 3:, :3, 3] - middle), rtol=1e-3, atol=1e-3)


def test_errors_of_one_view_are_shared():
    cameras = make_batch(inputs=4).cameras
    world = moved(cameras)
    twist = torch.linalg.matrix_exp(torch.tensor([[0, -0.2, 0], [0.2, 0, 0], [0, 0, 0]]))  # 11.5 degrees
    wrong = world.c2w.clone()
    wrong[:, 2, :3, :3] = wrong[:, 2, :3, :3] @ twist
    found = align_cameras(cameras[:, 4:], cameras[:, :4], Cameras(wrong, world.intrinsics)[:, :4])
    error = rotation_angle(found.c2w[..., :3, :3], world.c2w[:, 4:, :3, :3])
    assert error.max() < 11.5 / 3 and error.max() > 0.1
