"""A sample of many Gaussians looks as all of them."""

import pytest
import torch

from scene4d.gaussians.sampling import morton_order, sample_gaussians
from scene4d.rendering import render_gaussians
from scene4d.types import Cameras, Gaussians

EYE = torch.zeros(3)


def wall(side: int = 96, seed: int = 0) -> Gaussians:
    """One Gaussian for each pixel of a wall with a smooth picture, in random order, and a few faint ones."""
    g = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(*(2 * [torch.linspace(-0.5, 0.5, side)]), indexing="ij")
    means = torch.stack([xs, ys, torch.full_like(xs, 1.5)], -1).reshape(-1, 3)
    means = means[torch.randperm(len(means), generator=g)]
    count = len(means)
    return Gaussians(
        means=means, quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        scales=torch.tensor([0.7, 0.7, 0.05]).expand(count, 3) / side, opacities=torch.full((count,), 0.95),
        colors=0.5 + 0.4 * torch.sin(means * torch.tensor([5.0, 4, 1]) + means[:, :1]),
        blurred=True,
    )  # fmt: skip


def picture(gaussians: Gaussians):
    K = torch.tensor([[70.0, 0, 24], [0, 70, 24], [0, 0, 1]])
    return render_gaussians(gaussians, Cameras(torch.eye(4)[None], K[None]), 48, 48).images[0]


def psnr(a, b):
    return -10 * float((a - b).square().mean().log10())


def test_a_tenth_looks_as_all_and_better_than_every_tenth():
    whole = wall()
    part = sample_gaussians(whole, len(whole.means) // 10, EYE)
    assert len(part.means) <= len(whole.means) // 10
    every = whole[::10]
    truth = picture(whole)[:, 4:-4, 4:-4]
    found, plain = (psnr(picture(x)[:, 4:-4, 4:-4], truth) for x in (part, every))
    assert found > 20 and found > plain + 8, (found, plain)
    again = sample_gaussians(whole, len(whole.means) // 10, EYE)
    assert torch.equal(part.means, again.means) and part.blurred


@pytest.mark.parametrize("most", [1, 7, 100, 9215])
def test_the_number_is_kept(most):
    part = sample_gaussians(wall(), most, EYE)
    assert most - 1 <= len(part.means) <= most and len(part.means) > 0


def test_all_stay_where_there_are_no_more_and_nothing_is_refused():
    whole = wall(4)
    assert sample_gaussians(whole, 16, EYE) is whole
    with pytest.raises(ValueError, match="most = 0"):
        sample_gaussians(whole, 0, EYE)


def test_important_ones_stay_as_they_are():
    whole = wall(40)
    whole.opacities = whole.opacities.clone()
    whole.scales = whole.scales.clone()
    whole.scales[:20] *= 30
    part = sample_gaussians(whole, 200, EYE)
    kept = part.scales[:, 0] > whole.scales[:20, 0].min() * 0.99
    assert kept.sum() == 20 and torch.allclose(part.scales[kept], whole.scales[:20])


def test_the_order_keeps_neighbours_together_whatever_is_far_away():
    means = wall(32).means
    means[5] = 1e6
    ordered = means[morton_order(means)]
    steps = (ordered[1:] - ordered[:-1]).norm(dim=-1)
    assert steps.median() < 2.1 / 32 and sorted(morton_order(means).tolist()) == list(range(len(means)))
