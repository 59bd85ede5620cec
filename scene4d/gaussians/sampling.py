"""Fewer Gaussians that look as many: what a browser page of limited size holds of a large scene."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene4d.types import Gaussians

BITS = 16  # of a position along each axis of the curve
QUANTILE_POINTS = 2**18
EVENLY = (
    0.5  # share of the sample that is drawn without regard to importance, so that no Gaussian grows too much
)


def sample_gaussians(gaussians: Gaussians, most: int, eye: Float[Tensor, "3"]) -> Gaussians:
    """At most `most` of a set of Gaussians (g, ...), in the order of a curve through space; all if there are no more.

    A Gaussian's chance grows with its importance: opacity times the area that it covers when seen from `eye`. Those
    that stay become larger by 1 / sqrt(chance), so that the covered area remains (stochastic simplification, Cook et
    al. 2007). The sample is taken evenly along a Morton curve: it has neither clumps nor large holes, and is the same
    at every call.

    Args:
        gaussians: One set.
        most: Number that stays, at least 1.
        eye: The middle of the input cameras.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"a sample needs at least one Gaussian, got most = {most}")
    count = len(gaussians.means)
    if count <= most:
        return gaussians
    order = morton_order(gaussians.means)
    chances = _chances(_importance(gaussians, eye), most)[order]
    steps = chances.cumsum(0)
    steps = steps * (most / steps[-1])  # rounding may have moved the sum
    kept = (steps + 0.5).floor().diff(prepend=steps.new_zeros(1)) >= 1
    chosen = gaussians[order[kept]]
    grown = chosen.scales * chances[kept].rsqrt()[:, None].to(chosen.scales.dtype)
    return replace(chosen, scales=grown)


def morton_order(means: Float[Tensor, "g 3"]) -> Int[Tensor, " g"]:
    """Order along a curve that keeps neighbours together, in a cube that leaves out the outermost percent."""
    some = means[:: max(1, len(means) // QUANTILE_POINTS)].double().sort(0).values
    low, high = (some[int(share * (len(some) - 1))] for share in (0.01, 0.99))
    cells = ((means.double() - low) / (high - low).max().clamp(min=1e-12)).clamp(0, 1) * (2**BITS - 1)
    cells = cells.round().long()
    code = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    for bit in range(BITS):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True)


def _importance(gaussians: Gaussians, eye: Float[Tensor, "3"]) -> Float[Tensor, " g"]:
    area = gaussians.scales.double().topk(2, dim=-1).values.prod(-1)
    distance = (gaussians.means - eye.to(gaussians.means)).double().square().sum(-1).clamp(min=1e-12)
    return gaussians.opacities.double() * area / distance


def _chances(importance: Float[Tensor, " g"], most: int) -> Float[Tensor, " g"]:
    """Chances in (0, 1] whose sum is `most`; what is above 1 is given to the others."""
    even = torch.full_like(importance, most / len(importance))
    chances = EVENLY * even + (1 - EVENLY) * importance * (most / importance.sum().clamp(min=1e-300))
    for _ in range(20):
        certain = chances >= 1
        left = most - int(certain.sum())
        others = chances[~certain].sum()
        if not bool(certain.any()) or float(others) <= 0 or abs(float(others) - left) < 1e-6 * most:
            break
        chances = torch.where(certain, 1.0, chances * (left / others))
    return chances.clamp(max=1)
