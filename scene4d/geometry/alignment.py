"""Closed-form alignment of two point sets (Umeyama 1991), and of two sets of cameras."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.types import Cameras


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


def align_cameras(
    cameras: Cameras, source: Cameras, target: Cameras, scale: Float[Tensor, "*batch"] | None = None
) -> Cameras:
    """Brings cameras from the world of `source` into that of `target`, in which the same views were found again.

    The similarity is fitted to the places of the views, in units of their spread, and to the directions of their axes
    with equal weight. It is therefore determined where the views lie on a line or share one place, which places alone
    leave open.

    Args:
        cameras: `*batch n`, in the world of `source`; their intrinsics are kept.
        source: Cameras `*batch v`.
        target: The same views in the other world, `*batch v`.
        scale: Length of the unit of `source` in that of `target`, where it is known otherwise, for example by depth.
            None, and NaN for a scene, takes the ratio of the spreads of the two sets of places, and 1 where views
            share one place.

    Returns:
        Cameras `*batch n` in the world of `target`.
    """
    centred, spreads = zip(*(_spread(x.c2w[..., :3, 3]) for x in (source, target)))
    ours, theirs = (torch.cat([x, _axes(y.c2w)], -2) for x, y in zip(centred, (source, target)))
    _, rotation, _ = align_points(ours, theirs)
    ratio = torch.where((spreads[0] > 0) & (spreads[1] > 0), spreads[1] / spreads[0].clamp(min=1e-12), 1)
    scale = ratio if scale is None else torch.where(scale.isnan(), ratio, scale)
    middles = [x.c2w[..., :3, 3].mean(-2, keepdim=True) for x in (source, target)]
    places = (cameras.c2w[..., :3, 3] - middles[0]) @ rotation.mT * scale[..., None, None] + middles[1]
    top = torch.cat([rotation[..., None, :, :] @ cameras.c2w[..., :3, :3], places[..., None]], -1)
    return Cameras(torch.cat([top, cameras.c2w[..., 3:, :]], -2), cameras.intrinsics)


def _spread(
    places: Float[Tensor, "*batch v 3"],
) -> tuple[Float[Tensor, "*batch v 3"], Float[Tensor, "*batch"]]:
    """Places around their mean, in units of their spread, and that spread; 0 for views in one place."""
    centred = places - places.mean(-2, keepdim=True)
    spread = centred.square().sum(-1).mean(-1).sqrt()
    spread = torch.where(spread > 1e-6 * places.abs().amax((-1, -2)), spread, 0)
    return torch.where(
        spread[..., None, None] > 0, centred / spread.clamp(min=1e-12)[..., None, None], 0
    ), spread


def _axes(c2w: Float[Tensor, "*batch v 4 4"]) -> Float[Tensor, "*batch n 3"]:
    """The axes of all cameras and their opposites: points whose mean is 0, so that only directions count."""
    axes = c2w[..., :3, :3].mT.flatten(-3, -2)
    return torch.cat([axes, -axes], -2)
