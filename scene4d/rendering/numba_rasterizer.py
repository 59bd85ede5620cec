"""Alpha compositing of projected Gaussians on the CPU, with hand-written gradients.

Splat order: a task is one camera and one band of rows; it walks the splats sorted by depth and touches
only the pixels inside each splat's ellipse alpha >= 1/255. (Splats of feedforward models are about two
pixels wide, where this beats binning into 16x16 tiles.) The backward pass walks the same splats back
to front. Kernels compute in float64 whatever the dtype of the input.

Per pixel, with d = splat centre - pixel centre and conic (a, b, c), as in Kerbl et al. 2023, Eq. 3:
    sigma = (a dx^2 + c dy^2) / 2 + b dx dy,  alpha = min(0.999, opacity exp(-sigma)),
    render += alpha T color,  T *= 1 - alpha.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene4d.rendering.constants import ALPHA_MAX, ALPHA_THRESHOLD, TRANSMITTANCE_MIN
from scene4d.rendering.numba_compile import compile_helper, compile_kernel, use_torch_threads


@compile_helper
def _rows(center_y, radius_y, first_row, end_row):
    """Range of rows of a band that a splat may touch."""
    return max(math.floor(center_y - radius_y), first_row), min(math.ceil(center_y + radius_y), end_row)


@compile_helper
def _columns(a, b, c, dy, level, center_x, width):
    """Range of columns where a dx^2 + 2 b dx dy + c dy^2 <= level (a hair more; alpha decides)."""
    discriminant = b * b * dy * dy - a * (c * dy * dy - level)
    if discriminant < 0:
        return 0, 0
    root = math.sqrt(discriminant)
    low = math.ceil(center_x - (-b * dy + root) / a - 0.5 - 1e-3)
    high = math.floor(center_x - (-b * dy - root) / a - 0.5 + 1e-3)
    return max(low, 0), min(high, width - 1) + 1


@compile_helper
def _ellipse_level(opacity):
    """Value of d' conic d at which alpha falls to the threshold, and a hair more."""
    return 2.0 * math.log(opacity / ALPHA_THRESHOLD) + 1e-4


@compile_helper
def _forward_band(order, count, centers, conics, colors, opacities, radii_y, rows, renders, remaining, last):
    """Composites one camera's splats front to back into rows[0]..rows[1].

    `last[y, x]` becomes 1 + rank of the last contributor; while running, a saturated pixel holds
    -(that) - 1 so that it is skipped.
    """
    width = renders.shape[1]
    alive = (rows[1] - rows[0]) * width
    for rank in range(count):
        if alive == 0:
            break
        g = order[rank]
        y0, y1 = _rows(centers[g, 1], radii_y[g], rows[0], rows[1])
        if y0 >= y1:
            continue
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        opacity = opacities[g]
        level = _ellipse_level(opacity)
        for y in range(y0, y1):
            dy = centers[g, 1] - (y + 0.5)
            x0, x1 = _columns(a, b, c, dy, level, centers[g, 0], width)
            for x in range(x0, x1):
                if last[y, x] < 0:
                    continue
                dx = centers[g, 0] - (x + 0.5)
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(ALPHA_MAX, opacity * math.exp(-sigma))
                if sigma < 0 or alpha < ALPHA_THRESHOLD:
                    continue
                after = remaining[y, x] * (1.0 - alpha)
                if after <= TRANSMITTANCE_MIN:
                    last[y, x] = -last[y, x] - 1
                    alive -= 1
                    continue
                weight = alpha * remaining[y, x]
                for d in range(renders.shape[2]):
                    renders[y, x, d] += weight * colors[g, d]
                remaining[y, x] = after
                last[y, x] = rank + 1


@compile_kernel
def _forward_kernel(
    order, counts, centers, conics, colors, opacities, radii_y, bands, renders, remaining, last
):
    cameras, height = renders.shape[0], renders.shape[1]
    for task in numba.prange(cameras * bands):
        k = task // bands
        band = task % bands
        rows = (band * height // bands, (band + 1) * height // bands)
        _forward_band(
            order[k], counts[k], centers[k], conics[k], colors[k], opacities[k], radii_y[k],
            rows, renders[k], remaining[k], last[k],
        )  # fmt: skip


@compile_helper
def _backward_row(
    rank,
    y,
    x0,
    x1,
    splat,
    color,
    final,
    last,
    grad_renders,
    grad_final,
    remaining,
    behind,
    band_y,
    grad_color,
):
    """Adds one splat's gradients over the pixels x0..x1 of row y.

    Keeps, per pixel of the band, `remaining` (transmittance in front of the splats walked so far) and
    `behind` (sum over the splats behind of weight * <color, grad_renders>).

    Returns:
        Gradients of `splat` = (centre x, centre y, conic a, b, c, opacity); `grad_color` is added to.
    """
    center_x, center_y, a, b, c, opacity = splat
    grad_x = grad_y = grad_a = grad_b = grad_c = grad_opacity = 0.0
    dy = center_y - (y + 0.5)
    for x in range(x0, x1):
        if rank >= last[y, x]:
            continue
        dx = center_x - (x + 0.5)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        falloff = math.exp(-sigma)
        alpha = min(ALPHA_MAX, opacity * falloff)
        if sigma < 0 or alpha < ALPHA_THRESHOLD:
            continue
        inverse = 1.0 / (1.0 - alpha)
        before = remaining[band_y, x] * inverse
        weight = alpha * before
        dot = 0.0
        for d in range(color.shape[0]):
            grad_color[d] += weight * grad_renders[y, x, d]
            dot += color[d] * grad_renders[y, x, d]
        grad_alpha = before * dot - inverse * (behind[band_y, x] + final[y, x] * grad_final[y, x])
        remaining[band_y, x] = before
        behind[band_y, x] += weight * dot
        if opacity * falloff <= ALPHA_MAX:
            grad_sigma = -opacity * falloff * grad_alpha
            grad_a += 0.5 * grad_sigma * dx * dx
            grad_b += grad_sigma * dx * dy
            grad_c += 0.5 * grad_sigma * dy * dy
            grad_x += grad_sigma * (a * dx + b * dy)
            grad_y += grad_sigma * (b * dx + c * dy)
            grad_opacity += falloff * grad_alpha
    return grad_x, grad_y, grad_a, grad_b, grad_c, grad_opacity


@compile_helper
def _backward_band(
    order, centers, conics, colors, opacities, radii_y, rows,
    final, last, grad_renders, grad_final, grad_splats, grad_colors,
):  # fmt: skip
    """Walks one camera's splats back to front over rows[0]..rows[1], writing their gradients."""
    width = final.shape[1]
    remaining = final[rows[0] : rows[1]].copy()
    behind = np.zeros_like(remaining)
    for rank in range(last[rows[0] : rows[1]].max() - 1, -1, -1):
        g = order[rank]
        y0, y1 = _rows(centers[g, 1], radii_y[g], rows[0], rows[1])
        if y0 >= y1:
            continue
        splat = (centers[g, 0], centers[g, 1], conics[g, 0], conics[g, 1], conics[g, 2], opacities[g])
        level = _ellipse_level(opacities[g])
        color, grad_color = colors[g], grad_colors[g]
        for y in range(y0, y1):
            x0, x1 = _columns(splat[2], splat[3], splat[4], splat[1] - (y + 0.5), level, splat[0], width)
            if x0 >= x1:
                continue
            row = _backward_row(
                rank, y, x0, x1, splat, color, final, last, grad_renders, grad_final,
                remaining, behind, y - rows[0], grad_color,
            )  # fmt: skip
            grad_splats[g, 0] += row[0]
            grad_splats[g, 1] += row[1]
            grad_splats[g, 2] += row[2]
            grad_splats[g, 3] += row[3]
            grad_splats[g, 4] += row[4]
            grad_splats[g, 5] += row[5]


@compile_kernel
def _backward_kernel(
    order, centers, conics, colors, opacities, radii_y, bands,
    final, last, grad_renders, grad_final, grad_splats, grad_colors,
):  # fmt: skip
    cameras, height = final.shape[0], final.shape[1]
    for task in numba.prange(cameras * bands):
        k = task // bands
        band = task % bands
        rows = (band * height // bands, (band + 1) * height // bands)
        _backward_band(
            order[k], centers[k], conics[k], colors[k], opacities[k], radii_y[k], rows,
            final[k], last[k], grad_renders[k], grad_final[k], grad_splats[task], grad_colors[task],
        )  # fmt: skip


def _float64(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float64).numpy())


class _Composite(torch.autograd.Function):
    """Autograd node around the two kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        radii_y: Tensor,
        order: Tensor,
        counts: Tensor,
        width: int,
        height: int,
    ) -> tuple[Tensor, ...]:
        splats = tuple(_float64(x) for x in (means2d, conics, colors, opacities, radii_y))
        sorted_splats = np.ascontiguousarray(order.numpy())
        cameras = means2d.shape[0]
        threads = use_torch_threads()
        bands = 1 if cameras % threads == 0 else min(height, -(-threads // cameras))
        renders = np.zeros((cameras, height, width, colors.shape[-1]))
        remaining = np.ones((cameras, height, width))
        last = np.zeros((cameras, height, width), np.int32)
        _forward_kernel(sorted_splats, counts.numpy(), *splats, bands, renders, remaining, last)
        last = np.where(last < 0, -last - 1, last).astype(np.int32)
        ctx.splats, ctx.order, ctx.bands, ctx.final, ctx.last = splats, sorted_splats, bands, remaining, last
        ctx.dtype = means2d.dtype
        return tuple(torch.from_numpy(x.copy()).to(ctx.dtype) for x in (renders, remaining))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_renders: Tensor, grad_remaining: Tensor) -> tuple[Tensor | None, ...]:
        cameras, gaussians, channels = ctx.splats[2].shape
        grad_splats = np.zeros((cameras * ctx.bands, gaussians, 6))
        grad_colors = np.zeros((cameras * ctx.bands, gaussians, channels))
        use_torch_threads()
        _backward_kernel(
            ctx.order, *ctx.splats, ctx.bands, ctx.final, ctx.last,
            _float64(grad_renders), _float64(grad_remaining), grad_splats, grad_colors,
        )  # fmt: skip
        splats = grad_splats.reshape(cameras, ctx.bands, gaussians, 6).sum(1)
        colors = grad_colors.reshape(cameras, ctx.bands, gaussians, channels).sum(1)
        parts = (splats[..., :2], splats[..., 2:5], colors, splats[..., 5])
        return *(torch.from_numpy(x).to(ctx.dtype) for x in parts), None, None, None, None, None


def composite(
    means2d: Float[Tensor, "c g 2"],
    conics: Float[Tensor, "c g 3"],
    colors: Float[Tensor, "c g d"],
    opacities: Float[Tensor, "c g"],
    depths: Float[Tensor, "c g"],
    radii: Int[Tensor, "c g 2"],
    width: int,
    height: int,
) -> tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w"]]:
    """Composites projected Gaussians front to back.

    Args:
        means2d: Centres, pixels.
        conics: Inverse 2D covariances (a, b, c) of [[a, b], [b, c]], 1/pixels^2.
        colors: Features of any number of channels.
        opacities: In [0, 1].
        depths: Planar z, sorts the splats; equal depths composite in index order.
        radii: Half sizes in pixels, 0 where a Gaussian is not drawn.
        width: Pixels.
        height: Pixels.

    Returns:
        Accumulated features and the transmittance left at every pixel. Differentiable in means2d,
        conics, colors and opacities.
    """
    visible = (radii > 0).all(-1)
    order = depths.detach().masked_fill(~visible, torch.inf).argsort(dim=1, stable=True)
    counts = visible.sum(1)
    return _Composite.apply(
        means2d, conics, colors, opacities, radii[..., 1], order.to(torch.int32), counts, width, height
    )
