"""Gaussians and cameras of the framework's own types to images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.gaussians.blur import low_pass
from scene4d.rendering.rasterization import rasterize
from scene4d.types import Cameras, Gaussians

AT_ONCE = 2**24  # Gaussians x cameras that are drawn in one call, some GB on a GPU


class Rendering(NamedTuple):
    """Pictures of Gaussians.

    Attributes:
        images: RGB; in [0, 1] where the colours of the Gaussians are.
        depths: Expected depth (planar z, 0 where nothing is drawn); None unless it was asked for.
        alphas: How much of the background is covered, in [0, 1].
    """

    images: Float[Tensor, "*batch v c h w"]
    depths: Float[Tensor, "*batch v h w"] | None
    alphas: Float[Tensor, "*batch v h w"]


def render_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    height: int,
    width: int,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    depth: bool = False,
) -> Rendering:
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
        depth: Whether expected depths are drawn, too.

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
    count = max(1, AT_ONCE // max(1, flat.means.shape[1] * c2w.shape[1]))
    parts = [
        _render_sets(flat[part], viewmats[part], Ks[part], (height, width), background, depth)
        for part in (slice(k, k + count) for k in range(0, len(c2w), count))
    ]
    return Rendering(
        _joined([part.images for part in parts], shape),
        _joined([part.depths for part in parts if part.depths is not None], shape) if depth else None,
        _joined([part.alphas for part in parts], shape),
    )


def _joined(parts: list[Tensor], shape: torch.Size) -> Tensor:
    """The sets of all calls along one axis, which becomes `shape`."""
    return torch.cat(parts).unflatten(0, shape) if shape else parts[0][0]


def _flatten(tensor: Tensor, leading: int, shape: torch.Size) -> Tensor:
    """Broadcasts the first `leading` axes to `shape` and makes them one."""
    rest = tensor.shape[leading:]
    return tensor.expand(*shape, *rest).reshape(shape.numel(), *rest)


def _render_sets(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "n c 4 4"],
    Ks: Float[Tensor, "n c 3 3"],
    size: tuple[int, int],
    background: Sequence[float],
    depth: bool,
) -> Rendering:
    colour = torch.tensor(background, dtype=gaussians.means.dtype, device=gaussians.means.device)
    renders, alphas, _ = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        viewmats,
        Ks,
        size[1],
        size[0],
        eps2d=low_pass(gaussians),
        backgrounds=colour.expand(*viewmats.shape[:2], 3),
        render_mode="RGB+ED" if depth else "RGB",
    )
    images = renders[..., :3].movedim(-1, -3)
    return Rendering(images, renders[..., 3] if depth else None, alphas[..., 0])
