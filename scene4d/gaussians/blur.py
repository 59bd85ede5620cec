"""The blur of the rasterizer as a part of Gaussians, so that they look the same at every size in every viewer.

A rasterizer adds `LOW_PASS` to the covariance of every projected Gaussian, in pixels^2 of the picture that it draws.
Gaussians that were trained with it at 64 pixels are thinner than a pixel by themselves. Without more, a picture of 800
pixels, whose own low-pass is 12 times narrower in the scene, shows them as separate dots.
"""

from __future__ import annotations

from dataclasses import replace

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.types import Cameras, Gaussians

LOW_PASS = 0.3  # pixels^2; gsplat's eps2d and the original rasterizer's
LOW_PASS_BLURRED = 1e-4  # pixels^2; only keeps the covariance of the smallest splats invertible


def low_pass(gaussians: Gaussians) -> float:
    """What a rasterizer adds to the covariance of these Gaussians, in pixels^2 of the size of the input pictures."""
    return LOW_PASS_BLURRED if gaussians.blurred else LOW_PASS


def with_blur(gaussians: Gaussians, cameras: Cameras) -> Gaussians:
    """Makes the blur of the rasterizer a part of Gaussians `b t (v n)`, each of which was made by one of the views.

    The covariance grows in all directions by that blur at the size of the input pictures and at the Gaussian's own
    depth: scale' = sqrt(scale^2 + 0.3 (z / focal)^2). Opacities stay, as they do when the rasterizer blurs. Gaussians
    that are blurred already stay as they are.

    Args:
        gaussians: Those of all timesteps, in the order of the views, as `gaussians_from_maps` makes them.
        cameras: The views `b v`, with intrinsics in pixels of the input pictures.

    Raises:
        ValueError: The Gaussians cannot be shared out among the views.
    """
    views = cameras.c2w.shape[1]
    if gaussians.means.shape[-2] % views:
        raise ValueError(f"{gaussians.means.shape[-2]} Gaussians cannot be shared out among {views} views")
    if gaussians.blurred:
        return gaussians
    blur = LOW_PASS**0.5 * _pixel_footprints(gaussians.means, cameras)
    return replace(gaussians, scales=(gaussians.scales.square() + blur.square()).sqrt(), blurred=True)


def _pixel_footprints(means: Float[Tensor, "b t g 3"], cameras: Cameras) -> Float[Tensor, "b t g 1"]:
    """Width of one pixel at every Gaussian, in the view that made it; 0 behind the camera."""
    c2w, intrinsics = cameras.c2w.to(means.dtype), cameras.intrinsics.to(means.dtype)
    of_views = rearrange(means, "b t (v n) c -> b t v n c", v=c2w.shape[1])
    offsets = of_views - rearrange(c2w[..., :3, 3], "b v c -> b 1 v 1 c")
    depths = einsum(offsets, c2w[..., :3, 2], "b t v n c, b v c -> b t v n").clamp(min=0)
    focal = (intrinsics[..., 0, 0] * intrinsics[..., 1, 1]).sqrt()
    return rearrange(depths / rearrange(focal, "b v -> b 1 v 1"), "b t v n -> b t (v n) 1")
