"""The rasterizer of the CPU against plain torch, dense and sparse: forward and backward, RGB and depth, 4 cameras.

    python -m benchmarks.rasterizer
    python -m benchmarks.rasterizer --side 112 --repeats 3 --dense false

The scene is what the reconstructor makes of four views: one Gaussian for each pixel, about two pixels wide. Dense torch
(`rasterize_reference`) looks at all pairs of a pixel and a Gaussian. Sparse torch looks at those within the ellipses
alone, and composites them with sums over segments. Times are processor seconds of all threads, medians of the repeats;
dense torch runs once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from jsonargparse import CLI
from torch import Tensor

from scene4d.rendering import torch_reference
from scene4d.rendering.rasterization import rasterize, rasterize_reference

VIEWS, REACH = (
    4,
    12,
)  # REACH: pixels around a mean that sparse torch looks at, well beyond any splat of this scene


def scene(side: int) -> list[Tensor]:
    """Gaussians of four views of a bumpy wall, and four cameras between them."""
    g = torch.Generator().manual_seed(0)
    K = torch.tensor([[side * 1.2, 0, side / 2], [0, side * 1.2, side / 2], [0, 0, 1]])
    ys, xs = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    rays = torch.stack(
        [(xs - side / 2) / K[0, 0], (ys - side / 2) / K[1, 1], torch.ones_like(xs)], -1
    ).reshape(-1, 3)
    shifts = torch.linspace(-0.2, 0.2, VIEWS)
    depths = 2 + 0.2 * torch.rand(VIEWS, side * side, generator=g)
    means = torch.cat([d[:, None] * rays + torch.tensor([x, 0, 0]) for d, x in zip(depths, shifts.tolist())])
    scales = (depths.reshape(-1, 1) / K[0, 0] * 0.4).expand(-1, 3) * (
        0.7 + 0.6 * torch.rand(len(means), 3, generator=g)
    )
    viewmats = torch.eye(4).repeat(VIEWS, 1, 1)
    viewmats[:, 0, 3] = -shifts * 0.8
    quats, colors = torch.randn(len(means), 4, generator=g), torch.rand(len(means), 3, generator=g)
    opacities = 0.5 + 0.45 * torch.rand(len(means), generator=g)
    return [means, quats, scales, opacities, colors, viewmats, K.repeat(VIEWS, 1, 1)]


def rasterize_sparse(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, render_mode: str,
) -> tuple[Tensor, Tensor, None]:  # fmt: skip
    """Plain torch over the pairs of pixels and Gaussians that meet, differentiable by autograd."""
    limits = (0.01, 1e10, 0.0, 0.3)
    means2d, conics, depths, radii = torch_reference.project(
        means, quats, scales, opacities, viewmats, Ks, width, height, *limits
    )
    renders, alphas = [], []
    steps = torch.arange(-REACH, REACH + 1)
    for xy, conic, z, radius in zip(means2d, conics, depths, radii):
        order = z.detach().argsort()
        order = order[(radius[order] > 0).all(-1)]
        xy, conic, z, opacity = xy[order], conic[order], z[order], opacities[order]
        assert int(radius[order].max()) <= REACH, "a splat is larger than sparse torch looks"
        with torch.no_grad():
            base = xy.floor().long()
            u = base[:, 0, None, None] + steps[None, None, :]
            v = base[:, 1, None, None] + steps[None, :, None]
            dx, dy = xy[:, 0, None, None] - u - 0.5, xy[:, 1, None, None] - v - 0.5
            a, b, c = (x[:, None, None] for x in conic.unbind(-1))
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            seen = opacity[:, None, None] * torch.exp(-sigma) >= 1 / 255
            seen &= (u >= 0) & (u < width) & (v >= 0) & (v < height)
            which, row, column = seen.nonzero(as_tuple=True)
            pixel = (base[which, 1] + steps[row]) * width + base[which, 0] + steps[column]
            sort = pixel.argsort(stable=True)  # keeps the order in depth
            which, pixel = which[sort], pixel[sort]
        dx, dy = xy[which, 0] - pixel % width - 0.5, xy[which, 1] - pixel // width - 0.5
        a, b, c = conic[which].unbind(-1)
        alpha = (opacity[which] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(
            max=0.999
        )
        light = torch.log1p(-alpha.double())
        total = light.cumsum(0) - light
        first = torch.ones_like(pixel, dtype=torch.bool)
        first[1:] = pixel[1:] != pixel[:-1]
        start = torch.where(first, torch.arange(len(pixel)), 0).cummax(0).values
        before = (total - total[start]).exp().float()
        weight = alpha * before * (before * (1 - alpha) > 1e-4)
        features = torch.cat([colors[order][which], z[which, None]], -1)
        picture = torch.zeros(width * height, 4).index_add(0, pixel, weight[:, None] * features)
        alpha_map = torch.zeros(width * height).index_add(0, pixel, weight)
        depth = picture[:, 3:] / alpha_map[:, None].clamp(min=1e-10)
        renders.append(torch.cat([picture[:, :3], depth], -1).reshape(height, width, 4))
        alphas.append(alpha_map.reshape(height, width, 1))
    return torch.stack(renders), torch.stack(alphas), None


def seconds(
    function: Callable, tensors: list[Tensor], side: int, repeats: int
) -> tuple[float, Tensor, Tensor]:
    """Processor seconds forward and backward, the picture, and the gradient of the means."""
    found = []
    for _ in range(repeats):
        leaves = [x.clone().requires_grad_() for x in tensors[:5]]
        began = time.process_time()
        renders, alphas, _ = function(*leaves, *tensors[5:], side, side, render_mode="RGB+ED")
        (renders.square().sum() + alphas.sum()).backward()
        found.append(time.process_time() - began)
    assert leaves[0].grad is not None
    return median(found), renders.detach(), leaves[0].grad


def main(side: int = 56, repeats: int = 5, dense: bool = True) -> None:
    """Prints one row per rasterizer.

    Args:
        side: Height and width of the pictures; there are 4 x side^2 Gaussians.
        repeats: Of numba and sparse torch.
        dense: Whether dense torch runs, too; at 56 pixels it takes a minute and some GB.
    """
    tensors = scene(side)
    seconds(rasterize, tensors, side, 1)  # compiles
    ours, truth, gradient = seconds(rasterize, tensors, side, repeats)
    rows = [("numba", ours, 0.0, 0.0)]
    others = [("sparse torch", rasterize_sparse, repeats), ("dense torch", rasterize_reference, 1)]
    for name, function, count in others if dense else others[:1]:
        time_, picture, theirs = seconds(function, tensors, side, count)
        wrong = ((x - y).abs().max() / y.abs().max() for x, y in ((picture, truth), (theirs, gradient)))
        rows.append((name, time_, *(float(x) for x in wrong)))
    out = sys.stdout.write
    out(
        f"{len(tensors[0]):,} Gaussians -> {side} x {side}, {VIEWS} cameras, {torch.get_num_threads()} torch threads\n"
    )
    for name, time_, *wrong in rows:
        out(
            f"{name:14} {time_:9.3f} s  {time_ / ours:7.1f}x  differs by {wrong[0]:.1e}, gradient {wrong[1]:.1e}\n"
        )


if __name__ == "__main__":
    CLI(main, as_positional=False)
