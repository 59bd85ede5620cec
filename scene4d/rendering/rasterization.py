"""`rasterize`: the one door to Gaussian rasterization, shaped as `gsplat.rasterization`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.rendering import numba_projection, numba_rasterizer, torch_reference
from scene4d.rendering.constants import DEPTH_ALPHA_MIN

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


class _Inputs(NamedTuple):
    """The tensor arguments of `rasterize`."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    backgrounds: Tensor | None


def rasterize(
    means: Float[Tensor, "*batch g 3"],
    quats: Float[Tensor, "*batch g 4"],
    scales: Float[Tensor, "*batch g 3"],
    opacities: Float[Tensor, "*batch g"],
    colors: Float[Tensor, "*batch_and_camera g d"],
    viewmats: Float[Tensor, "*batch c 4 4"],
    Ks: Float[Tensor, "*batch c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    backgrounds: Float[Tensor, "*batch c d"] | None = None,
    render_mode: RenderMode = "RGB",
) -> tuple[Float[Tensor, "*batch c h w x"], Float[Tensor, "*batch c h w 1"], dict[str, Any]]:
    """Renders 3D Gaussians from C cameras: by gsplat on CUDA, by our numba kernels on the CPU.

    Parameters are those of `gsplat.rasterization`, with its names, order and defaults. All of them may have the same
    leading axes, for example timesteps: gsplat draws these sets in one call, the CPU one after the other.
    Half-precision input is computed in float32 and the result is float32, under autocast too. gsplat computes in
    float32 whatever the input, and float64 comes back as float64.

    Args:
        means: World positions.
        quats: Rotations, wxyz, of any length above 0.
        scales: Standard deviations, scene units, positive.
        opacities: In [0, 1].
        colors: D features a Gaussian, shared by the cameras or one set a camera (... c g d).
        viewmats: World-to-camera matrices, OpenCV axes.
        Ks: Intrinsics, pixels, pixel centres at +0.5. No gradient reaches them.
        width: Width of the image, pixels.
        height: Height of the image, pixels.
        near_plane: Gaussians with z at or below it are not drawn.
        far_plane: Gaussians with z at or above it are not drawn.
        radius_clip: Splats with both radii at or below it (pixels) are not drawn.
        eps2d: Added to the 2D covariance's diagonal, pixels^2.
        backgrounds: Colour behind the Gaussians; depth's background is 0.
        render_mode: "RGB" features; "D" accumulated depth sum(w z); "ED" expected depth
            sum(w z) / sum(w); "RGB+D" and "RGB+ED" both, depth as the last channel.

    Returns:
        Renders (X = D, 1 or D + 1 channels), alphas, and a dictionary with `means2d`, `conics`, `depths`
        and `radii` (gsplat's has more).

    Raises:
        ValueError: Shapes that do not fit, unknown `render_mode`, an empty image, or NaN or infinite values.
    """
    inputs = _common_dtype(_Inputs(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds))
    _check_shapes(inputs, width, height, render_mode)
    limits = (near_plane, far_plane, radius_clip, eps2d)
    with torch.autocast(means.device.type, enabled=False):
        if 0 in (*means.shape[:-1], viewmats.shape[-3]):
            return _nothing(inputs, width, height, render_mode)
        if means.is_cuda:
            from scene4d.rendering.gsplat_rasterizer import rasterize_gsplat

            single = _Inputs._make(None if x is None else x.float() for x in inputs)
            renders, alphas, info = rasterize_gsplat(
                *single[:7], width, height, *limits, single.backgrounds, render_mode
            )
            return renders.to(inputs.means.dtype), alphas.to(inputs.means.dtype), info
        _check_finite(inputs)
        if means.ndim == 2:
            return _rasterize_numba(inputs, width, height, limits, render_mode)
        sets = [_rasterize_numba(x, width, height, limits, render_mode) for x in _each_set(inputs)]
    batch, (pictures, coverages, infos) = means.shape[:-2], zip(*sets)
    info = {key: torch.stack([x[key] for x in infos]).unflatten(0, batch) for key in infos[0]}
    return torch.stack(pictures).unflatten(0, batch), torch.stack(coverages).unflatten(0, batch), info


def _rasterize_numba(
    inputs: _Inputs,
    width: int,
    height: int,
    limits: tuple[float, float, float, float],
    render_mode: RenderMode,
) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"], dict[str, Tensor]]:
    return _assemble(
        numba_projection.project, numba_rasterizer.composite, inputs, width, height, limits, render_mode
    )


def _each_set(inputs: _Inputs) -> Iterator[_Inputs]:
    """The inputs of each set of Gaussians, without leading axes."""
    last = inputs.means.ndim - 3
    flat = _Inputs._make(None if x is None else x.flatten(0, last) for x in inputs)
    for index in range(len(flat.means)):
        yield _Inputs._make(None if x is None else x[index] for x in flat)


def rasterize_reference(
    means: Float[Tensor, "g 3"],
    quats: Float[Tensor, "g 4"],
    scales: Float[Tensor, "g 3"],
    opacities: Float[Tensor, "g"],
    colors: Float[Tensor, "*per_camera g d"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    backgrounds: Float[Tensor, "c d"] | None = None,
    render_mode: RenderMode = "RGB",
) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"], dict[str, Tensor]]:
    """`rasterize` in plain torch: dense, slow, differentiable by autograd. For tests."""
    inputs = _Inputs(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds)
    limits = (near_plane, far_plane, radius_clip, eps2d)
    return _assemble(
        torch_reference.project, torch_reference.composite, inputs, width, height, limits, render_mode
    )


def _assemble(
    project: Callable,
    composite: Callable,
    inputs: _Inputs,
    width: int,
    height: int,
    limits: tuple[float, float, float, float],
    render_mode: RenderMode,
) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"], dict[str, Tensor]]:
    """Projects, composites, adds backgrounds and divides expected depth."""
    means, quats, scales, opacities, colors, viewmats, Ks, backgrounds = inputs
    means2d, conics, depths, radii = project(
        means, quats, scales, opacities, viewmats, Ks, width, height, *limits
    )
    cameras = viewmats.shape[0]
    features = _features(colors, depths, render_mode)
    renders, remaining = composite(
        means2d, conics, features, opacities.expand(cameras, -1), depths, radii, width, height
    )
    alphas = 1 - remaining[..., None]
    if backgrounds is not None and "RGB" in render_mode:
        padded = torch.nn.functional.pad(backgrounds, (0, renders.shape[-1] - backgrounds.shape[-1]))
        renders = renders + remaining[..., None] * padded[:, None, None]
    if render_mode in ("ED", "RGB+ED"):
        depth = renders[..., -1:] / alphas.clamp(min=DEPTH_ALPHA_MIN)
        renders = torch.cat([renders[..., :-1], depth], dim=-1)
    info = {"means2d": means2d, "conics": conics, "depths": depths, "radii": radii}
    return renders, alphas, info


def _nothing(
    inputs: _Inputs, width: int, height: int, render_mode: str
) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"], dict[str, Tensor]]:
    """Returns the backgrounds alone, for no Gaussians or no cameras, by which gsplat divides; gradients are zero."""
    batch, gaussians, channels = inputs.means.shape[:-2], inputs.means.shape[-2], inputs.colors.shape[-1]
    cameras = inputs.viewmats.shape[-3]
    empty = sum((0 * x.sum() for x in inputs[:6]), start=inputs.means.new_zeros(()))
    alphas = empty.expand(*batch, cameras, height, width, 1)
    renders = empty.expand(*batch, cameras, height, width, channels if "RGB" in render_mode else 1)
    if inputs.backgrounds is not None and "RGB" in render_mode:
        renders = renders + inputs.backgrounds[..., None, None, :]
    if render_mode in ("RGB+D", "RGB+ED"):
        renders = torch.cat([renders, alphas], dim=-1)
    sizes = {"means2d": (2,), "conics": (3,), "depths": ()}
    info = {name: inputs.means.new_zeros(*batch, cameras, gaussians, *size) for name, size in sizes.items()}
    return renders, alphas, info | {"radii": torch.zeros_like(info["means2d"], dtype=torch.int32)}


def _features(
    colors: Tensor, depths: Float[Tensor, "c g"], render_mode: RenderMode
) -> Float[Tensor, "c g x"]:
    """Returns the channels that are composited: colours, depth, or both."""
    colors = colors.expand(*depths.shape, colors.shape[-1])
    if render_mode == "RGB":
        return colors
    if render_mode in ("D", "ED"):
        return depths[..., None]
    return torch.cat([colors, depths[..., None]], dim=-1)


def _common_dtype(inputs: _Inputs) -> _Inputs:
    """All tensors in the widest of their dtypes, at least float32."""
    dtype = torch.float32
    for tensor in inputs:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return _Inputs._make(None if x is None else x.to(dtype) for x in inputs)


def _check_shapes(inputs: _Inputs, width: int, height: int, render_mode: str) -> None:
    batch, gaussians = tuple(inputs.means.shape[:-2]), (inputs.means.shape[-2:-1] or (0,))[0]
    cameras = (inputs.viewmats.shape[-3:-2] or (0,))[0]
    expected = {
        "means": (*batch, gaussians, 3),
        "quats": (*batch, gaussians, 4),
        "scales": (*batch, gaussians, 3),
        "opacities": (*batch, gaussians),
        "viewmats": (*batch, cameras, 4, 4),
        "Ks": (*batch, cameras, 3, 3),
    }
    for name, shape in expected.items():
        found = tuple(getattr(inputs, name).shape)
        if found != shape:
            raise ValueError(f"{name} has shape {found}, expected {shape}")
    colors, backgrounds = tuple(inputs.colors.shape), inputs.backgrounds
    shared, of_cameras = (*batch, gaussians), (*batch, cameras, gaussians)
    if colors[:-1] not in (shared, of_cameras):
        shapes = " or ".join(f"({', '.join(map(str, shape))}, d)" for shape in (shared, of_cameras))
        raise ValueError(f"colors has shape {colors}, expected {shapes}")
    if backgrounds is not None and backgrounds.shape != (*batch, cameras, colors[-1]):
        expected_shape = (*batch, cameras, colors[-1])
        raise ValueError(f"backgrounds has shape {tuple(backgrounds.shape)}, expected {expected_shape}")
    if width < 1 or height < 1:
        raise ValueError(f"image size must be positive, got width {width}, height {height}")
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode {render_mode!r} is not one of {', '.join(RENDER_MODES)}")


def _check_finite(inputs: _Inputs) -> None:
    for name, tensor in inputs._asdict().items():
        if tensor is not None and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise ValueError(f"{name} holds {count} NaN or infinite values of {tensor.numel()}")
