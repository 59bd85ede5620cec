"""Closed-form alignment of two point sets (Umeyama 1991)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def align_points(
    source: Float[Tensor, "*batch n 3"],
    target: Float[Tensor, "*batch n 3"],
    weights: Float[Tensor, "*batch n"] | None = None,
    with_scale: bool = False,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Least-squares similarity: target ~ scale * rotation @ source + translation.

    Args:
        source: Points to be moved.
        target: Where they should land.
        weights: Non-negative weight of every pair; None = 1.
        with_scale: Whether to estimate the scale (Umeyama) or keep 1 (Procrustes).

    Returns:
        Scale, rotation (determinant +1) and translation.
    """
    weights = torch.ones_like(source[..., 0]) if weights is None else weights
    weights = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-12))[..., None]
    mean_s, mean_t = (weights * source).sum(-2, keepdim=True), (weights * target).sum(-2, keepdim=True)
    centred_s, centred_t = source - mean_s, target - mean_t
    u, singular, vh = torch.linalg.svd((weights * centred_t).transpose(-1, -2) @ centred_s)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.det(u @ vh).sign()
    rotation = u @ torch.diag_embed(sign) @ vh
    scale = torch.ones_like(singular[..., 0])
    if with_scale:
        variance = (weights * centred_s.square()).sum((-1, -2)).clamp(min=1e-12)
        scale = (singular * sign).sum(-1) / variance
    translation = mean_t - scale[..., None, None] * (mean_s @ rotation.transpose(-1, -2))
    return scale, rotation, translation.squeeze(-2)
