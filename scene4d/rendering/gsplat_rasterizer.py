"""The same call on CUDA, by gsplat (Apache-2.0, https://docs.gsplat.studio).

Compared with our own rasterizer and a brute force in `tests/gpu/test_rasterization_gpu.py`.
"""

from __future__ import annotations

from typing import Any

import gsplat
from torch import Tensor


def rasterize_gsplat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    backgrounds: Tensor | None,
    render_mode: str,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Calls `gsplat.rasterization`; `packed=False` because feedforward scenes are seen by all cameras."""
    return gsplat.rasterization(
        means=means,
        quats=quats,
        scales=scales,
        opacities=opacities,
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        packed=False,
        backgrounds=backgrounds,
        render_mode=render_mode,
    )
