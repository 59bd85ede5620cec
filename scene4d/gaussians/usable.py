"""Gaussians that no viewer can draw: they are left out of files, and counted."""

from __future__ import annotations

import logging
from dataclasses import fields

import torch
from jaxtyping import Bool
from torch import Tensor

from scene4d.types import Gaussians

log = logging.getLogger(__name__)

LARGEST = 1e18  # scene units; the square of a larger scale is infinite in float32


def usable_gaussians(gaussians: Gaussians, name: str) -> Gaussians:
    """Keeps the Gaussians that can be drawn, and warns how many cannot and why.

    A Gaussian cannot be drawn if a number of it is NaN or infinite, if its quaternion is zero, or if a scale is
    negative or larger than 1e18.

    Args:
        gaussians: One set, without leading axes.
        name: The file or the timestep that the warning names.

    Raises:
        ValueError: None of them can be drawn, although there are some; names the file.
    """
    problems = _problems(gaussians)
    bad = torch.stack(list(problems.values())).any(0)
    if not bool(bad.any()):
        return gaussians
    counts = ", ".join(f"{reason}: {int(found.sum())}" for reason, found in problems.items() if found.any())
    message = f"{name}: {int(bad.sum())} of {len(bad)} Gaussians cannot be drawn ({counts})"
    if bool(bad.all()):
        raise ValueError(message)
    log.warning("%s and are left out", message)
    return gaussians[~bad]


def _problems(gaussians: Gaussians) -> dict[str, Bool[Tensor, " g"]]:
    """Which Gaussians have each of the problems."""
    tensors = [x for x in (getattr(gaussians, f.name) for f in fields(gaussians)) if isinstance(x, Tensor)]
    finite = torch.stack([torch.isfinite(x[:, None]).flatten(1).all(1) for x in tensors]).all(0)
    norms, scales = gaussians.quats.float().norm(dim=-1), gaussians.scales
    return {
        "NaN or infinite": ~finite,
        "zero quaternion": finite & (norms < 1e-12),
        "scale below 0 or above 1e18": finite & ((scales < 0) | (scales > LARGEST)).any(1),
    }
