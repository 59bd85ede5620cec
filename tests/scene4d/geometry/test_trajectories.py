"""Camera paths."""

import math

import pytest
import torch

from scene4d.geometry.trajectories import arc, common_target, look_at, orbit


def test_look_at_is_a_proper_upright_opencv_camera():
    position, target = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([0.5, 0.5, 0.0])
    c2w = look_at(position, target)
    torch.testing.assert_close(c2w[:3, :3].mT @ c2w[:3, :3], torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(c2w[:3, :3]), torch.tensor(1.0))
    seen = torch.linalg.inv(c2w) @ torch.cat([target, torch.ones(1)])
    torch.testing.assert_close(seen[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert seen[2] > 0, "the target lies ahead"
    above = torch.linalg.inv(c2w) @ torch.cat([target + torch.tensor([0, 0, 0.1]), torch.ones(1)])
    assert above[1] < 0 and abs(above[0]) < 1e-6, "what is higher in the world is higher in the image"


def test_look_at_refuses_undefined_cameras():
    with pytest.raises(ValueError, match="own position"):
        look_at(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="roll is undefined"):
        look_at(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3))


def test_arc_keeps_distance_and_spans_the_angle():
    c2w = arc(
        8, azimuth=20, total_angle=-40, elevation=10, elevation_change=5, distance=2.5, target=(1, 2, 3)
    )
    offset = c2w[:, :3, 3] - torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((8,), 2.5))
    azimuth = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 0]))
    torch.testing.assert_close(azimuth, torch.linspace(20, -20, 8), atol=1e-3, rtol=0)
    elevation = torch.rad2deg(torch.asin(offset[:, 2] / 2.5))
    torch.testing.assert_close(elevation, torch.linspace(10, 15, 8), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="got 0"):
        arc(0, 0, 10, 0, 0, 1)


def test_common_target_is_where_the_axes_meet():
    c2w = arc(8, 30, 40, 10, 5, 2.5, target=(0.1, 0.2, 0.3))
    torch.testing.assert_close(common_target(c2w), torch.tensor([0.1, 0.2, 0.3]), atol=5e-3, rtol=0)


def random_rotation() -> torch.Tensor:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    return rotation * torch.linalg.det(rotation)


def test_orbit_is_smooth_loops_and_stays_around_the_given_cameras():
    given = arc(8, 30, 40, 15, 0, 2.5)
    path = orbit(given, frames=48, widen=1.2, bob=4)
    position = path[:, :3, 3]
    torch.testing.assert_close(position.norm(dim=-1), torch.full((48,), 2.5), atol=0.01, rtol=0)
    azimuth = torch.rad2deg(torch.atan2(position[:, 1], position[:, 0]))
    assert abs(azimuth.min() - 26) < 0.2 and abs(azimuth.max() - 74) < 0.2
    elevation = torch.rad2deg(torch.asin(position[:, 2] / 2.5))
    assert 10.5 < elevation.min() < 12 and 18 < elevation.max() < 19.5
    steps = (position.roll(-1, 0) - position).norm(dim=-1)
    assert steps.max() < 2 * math.pi / 48 * 2.5, "also from the last frame to the first"


def test_orbit_works_in_any_world():
    given = arc(8, 30, 40, 15, 5, 2.5)
    move = torch.eye(4)
    move[:3, :3], move[:3, 3] = random_rotation(), torch.tensor([4.0, -1.0, 2.0])
    torch.testing.assert_close(orbit(move @ given, 12), move @ orbit(given, 12), atol=1e-3, rtol=0)
