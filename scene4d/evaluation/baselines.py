"""The baselines that a model has to beat: copies of the references, their blends and blurs.

All take the whole grid and look at its references only: row 0 and column 0 of a diffusion grid, the input
views of a novel-view problem.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Grid = Float[Tensor, "b v t c h w"]


def copy_freeze_time(images: Grid) -> Grid:
    """Column 0, the freeze-time video, repeated over time: the right views, standing still."""
    return images[:, :, :1].expand_as(images)


def copy_fixed_view(images: Grid) -> Grid:
    """Row 0, the fixed-view video, repeated over views: the right motion, seen from the wrong side."""
    return images[:, :1].expand_as(images)


def blend(images: Grid, share: float = 0.8) -> Grid:
    """`share` of the freeze-time copy plus the rest of the fixed-view copy."""
    return share * copy_freeze_time(images) + (1 - share) * copy_fixed_view(images)


def blurred_copy(images: Grid, sigma: float = 1.5) -> Grid:
    """The freeze-time copy, blurred by `sigma` pixels: higher PSNR for no knowledge."""
    return blur(copy_freeze_time(images), sigma)


def copy_nearest(images: Grid, c2w: Float[Tensor, "b v 4 4"], reference: Bool[Tensor, "b v t"]) -> Grid:
    """Each view replaced by the nearest input view at the same time (input views stay themselves)."""
    nearest = nearest_inputs(c2w, reference[:, :, 0])[..., 0]
    return _take_views(images, nearest)


def blurred_mean(
    images: Grid, c2w: Float[Tensor, "b v 4 4"], reference: Bool[Tensor, "b v t"], sigma: float = 2.0
) -> Grid:
    """The mean of the two nearest input views, blurred by `sigma` pixels."""
    nearest = nearest_inputs(c2w, reference[:, :, 0])[..., :2]
    mean = torch.stack([_take_views(images, k) for k in nearest.unbind(-1)]).mean(0)
    return blur(mean, sigma)


def nearest_inputs(c2w: Float[Tensor, "b v 4 4"], inputs: Bool[Tensor, "b v"]) -> Int[Tensor, "b v i"]:
    """Indices of the input views of every view, nearest first; i is the least number of inputs.

    Nearness is the distance of the camera centres over the greatest one in the scene, plus the angle between
    the viewing directions over pi: it works for orbits, for sideways motion and for turning on the spot.

    Raises:
        ValueError: A scene has no input view.
    """
    count = int(inputs.sum(1).min())
    if count == 0:
        raise ValueError("a scene has no input view to copy from")
    centres, forward = c2w[..., :3, 3], c2w[..., :3, 2]
    distance = torch.cdist(centres, centres)
    distance = distance / distance.amax((1, 2), keepdim=True).clamp_min(1e-9)
    angle = torch.acos((forward @ forward.mT).clamp(-1, 1)) / math.pi
    cost = (distance + angle).masked_fill(~inputs[:, None], math.inf)
    return cost.argsort(dim=-1, stable=True)[..., :count]


def blur(images: Grid, sigma: float) -> Grid:
    """Gaussian blur of every frame, in pixels."""
    size = 2 * math.ceil(3 * sigma) + 1
    flat = gaussian_blur(rearrange(images, "b v t c h w -> (b v t) c h w"), size, sigma)
    return flat.view(images.shape)


def _take_views(images: Grid, index: Int[Tensor, "b v"]) -> Grid:
    """Picks views by their index."""
    return torch.stack([grid[views] for grid, views in zip(images, index)])
