"""The baselines take what they may look at, and nothing else."""

import math

import pytest
import torch

from scene4d.evaluation.baselines import (
    blend,
    blur,
    blurred_copy,
    blurred_mean,
    copy_fixed_view,
    copy_freeze_time,
    copy_nearest,
    nearest_inputs,
)


def random_grid(b: int = 2, v: int = 3, t: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, v, t, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def arc(angles: list[float]) -> torch.Tensor:
    """Cameras on a circle of radius 2 that look at its centre, `1 v 4 4`."""
    poses = []
    for degrees in angles:
        a = math.radians(degrees)
        pose = torch.eye(4)
        pose[:3, 2] = -torch.tensor([math.sin(a), 0.0, math.cos(a)])
        pose[:3, 3] = 2 * torch.tensor([math.sin(a), 0.0, math.cos(a)])
        poses.append(pose)
    return torch.stack(poses)[None]


def test_copies_and_blend():
    grid = random_grid()
    assert torch.equal(copy_freeze_time(grid)[:, 2, 3], grid[:, 2, 0])
    assert torch.equal(copy_fixed_view(grid)[:, 2, 3], grid[:, 0, 3])
    torch.testing.assert_close(blend(grid)[:, 2, 3], 0.8 * grid[:, 2, 0] + 0.2 * grid[:, 0, 3])


def test_blur_keeps_the_mean_and_has_the_width():
    grid = torch.zeros(1, 1, 1, 3, 33, 33)
    grid[..., 16, 16] = 1
    spot = blur(grid, 2.0)[0, 0, 0, 0]
    offsets = torch.arange(33.0) - 16
    assert spot.sum() == pytest.approx(1, abs=1e-5)
    assert (spot.sum(0) * offsets**2).sum().sqrt() == pytest.approx(2.0, rel=0.05)
    assert torch.equal(blurred_copy(grid)[:, :, 0], blur(grid, 1.5)[:, :, 0])


def test_nearest_inputs_on_an_arc_and_on_the_spot():
    inputs = torch.tensor([[True, False, True, False]])
    order = nearest_inputs(arc([0, 3, 10, 12]), inputs)
    assert order.tolist() == [[[0, 2], [0, 2], [2, 0], [2, 0]]]
    turning = arc([0, 3, 10, 12])
    turning[..., :3, 3] = 0
    assert nearest_inputs(turning, inputs).tolist() == order.tolist()


def test_novel_view_baselines():
    grid = random_grid(b=1, v=4)
    reference = torch.tensor([True, False, True, False])[None, :, None].expand(1, 4, 4)
    cameras = arc([0, 3, 10, 12])
    copied = copy_nearest(grid, cameras, reference)
    assert torch.equal(copied[:, 1], grid[:, 0]) and torch.equal(copied[:, 3], grid[:, 2])
    mean = blurred_mean(grid, cameras, reference)
    torch.testing.assert_close(mean[:, 1], blur((grid[:, :1] + grid[:, 2:3]) / 2, 2.0)[:, 0])
    changed = torch.where(reference[..., None, None, None], grid, 0.0)
    assert torch.equal(copy_nearest(changed, cameras, reference), copied)
    with pytest.raises(ValueError, match="no input view"):
        copy_nearest(grid, cameras, torch.zeros_like(reference))
