"""Gaussians and cameras of the framework's own types to images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.gaussians.blur import low_pass
from scene4d.rendering.rasterization import rasterize
from scene4d.types import Cameras, Gaussians


def render_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    height: int,
    width: int,
    background: Sequence[float] = (1.0, 1.0, 1.0),
) -> tuple[Float[Tensor, "*batch v c h w"], Float[Tensor, "*batch v h w"], Float[Tensor, "*batch v h w"]]:
    """Renders every set of Gaussians from its cameras.

    The rasterizer's low-pass of 0.3 pixels^2 is left out for Gaussians that include it (`Gaussians.blurred`): it would
    count twice.

    Args:
        gaussians: Any leading shape, for example `b t`.
        cameras: The views to render: leading shape (..., v), where (...) broadcasts against the leading
            shape of `gaussians`. For Gaussians `b t` give cameras `b 1 v` (the same views at every
            timestep) or `b t v`; for a single set (no leading axis) give `v`.
        height: Pixels.
        width: Pixels.
        background: Colour behind the Gaussians, in [0, 1].

    Returns:
        Images, expected depths (planar z, 0 where nothing is drawn), and alphas.

    Raises:
        ValueError: The leading shapes do not broadcast; see also `rasterize`.
    """
    leading = gaussians.means.shape[:-2]
    try:
        shape = torch.broadcast_shapes(leading, cameras.c2w.shape[:-3])
    except RuntimeError as error:
        raise ValueError(
            f"cameras {tuple(cameras.c2w.shape[:-2])} do not fit Gaussians {tuple(leading)}: "
            "give cameras (..., views) whose leading axes broadcast against those of the Gaussians"
        ) from error
    flat = gaussians.apply(lambda x: _flatten(x, len(leading), shape))
    c2w = cameras.c2w.expand(*shape, *cameras.c2w.shape[-3:]).reshape(-1, *cameras.c2w.shape[-3:])
    Ks = cameras.intrinsics.expand(*shape, *cameras.intrinsics.shape[-3:]).reshape(*c2w.shape[:2], 3, 3)
    viewmats = torch.linalg.inv(c2w.float() if c2w.dtype in (torch.float16, torch.bfloat16) else c2w)
    results = [
        _render_one(flat[i], viewmats[i], Ks[i], height, width, background) for i in range(c2w.shape[0])
    ]
    images, depths, alphas = (torch.stack(x).unflatten(0, shape) if shape else x[0] for x in zip(*results))
    return images, depths, alphas


def _flatten(tensor: Tensor, leading: int, shape: torch.Size) -> Tensor:
    """Broadcasts the first `leading` axes to `shape` and makes them one."""
    rest = tensor.shape[leading:]
    return tensor.expand(*shape, *rest).reshape(-1, *rest)


def _render_one(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    height: int,
    width: int,
    background: Sequence[float],
) -> tuple[Float[Tensor, "c 3 h w"], Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
    colour = torch.tensor(background, dtype=gaussians.means.dtype, device=gaussians.means.device)
    renders, alphas, _ = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        viewmats,
        Ks,
        width,
        height,
        eps2d=low_pass(gaussians),
        backgrounds=colour.expand(viewmats.shape[0], 3),
        render_mode="RGB+ED",
    )
    images = renders[..., :3].movedim(-1, -3)
    return images, renders[..., 3], alphas[..., 0]
