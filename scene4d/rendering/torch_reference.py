"""The rasterizer again in plain torch, dense and slow: what the fast ones are compared with in tests.

Written from the formulas alone (module docstrings of `numba_projection` and `numba_rasterizer`), with
gradients by autograd. Memory is pixels x Gaussians; meant for tiny scenes in float64.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.rendering.constants import (
    ALPHA_MAX,
    ALPHA_THRESHOLD,
    EXTENT_MAX,
    FOV_MARGIN,
    TRANSMITTANCE_MIN,
)


def _clamped_slopes(x, y, z, Ks, width: int, height: int):
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    margin_x, margin_y = FOV_MARGIN * 0.5 * width / fx, FOV_MARGIN * 0.5 * height / fy
    u = torch.minimum(torch.maximum(x / z, -(cx / fx + margin_x)), (width - cx) / fx + margin_x)
    v = torch.minimum(torch.maximum(y / z, -(cy / fy + margin_y)), (height - cy) / fy + margin_y)
    return u, v


def _radii(covariance, opacities, means2d, drawn, width: int, height: int, radius_clip: float):
    """Half sizes in pixels, rounded up, 0 where culled."""
    extent = torch.sqrt(2 * torch.log((opacities / ALPHA_THRESHOLD).clamp(min=1))).clamp(max=EXTENT_MAX)
    radii = torch.ceil(extent[:, None] * torch.sqrt(torch.diagonal(covariance, dim1=-2, dim2=-1)))
    drawn = drawn & (opacities >= ALPHA_THRESHOLD) & (radii > radius_clip).any(-1)
    size = torch.tensor([width, height], dtype=means2d.dtype)
    on_screen = ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
    return (radii * (drawn & on_screen)[..., None]).to(torch.int32)


def project(
    means: Float[Tensor, "g 3"],
    quats: Float[Tensor, "g 4"],
    scales: Float[Tensor, "g 3"],
    opacities: Float[Tensor, "g"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
) -> tuple[Float[Tensor, "c g 2"], Float[Tensor, "c g 3"], Float[Tensor, "c g"], Int[Tensor, "c g 2"]]:
    """Twin of `numba_projection.project`."""
    rotations = viewmats[:, None, :3, :3]
    x, y, z = einsum(viewmats[:, :3, :3], means, "c i j, g j -> i c g") + viewmats[:, :3, 3].T[..., None]
    drawn = (z > near_plane) & (z < far_plane)
    safe_z = torch.where(drawn, z, torch.ones_like(z))
    u, v = _clamped_slopes(x, y, safe_z, Ks, width, height)
    zero = torch.zeros_like(z)
    fx, fy = Ks[:, 0, 0, None] / safe_z, Ks[:, 1, 1, None] / safe_z
    jacobian = torch.stack([fx, zero, -fx * u, zero, fy, -fy * v], dim=-1)
    jacobian = rearrange(jacobian, "c g (i j) -> c g i j", i=2)
    factor = jacobian @ rotations @ (quaternion_to_matrix(quats) * scales[:, None, :])
    covariance = factor @ factor.mT + eps2d * torch.eye(2, dtype=means.dtype)
    inverse = torch.linalg.inv(covariance)
    conics = torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], dim=-1)
    focal, centre = Ks[:, [0, 1], [0, 1]][:, None], Ks[:, :2, 2][:, None]
    means2d = torch.stack([x / safe_z, y / safe_z], dim=-1) * focal + centre
    with torch.no_grad():
        radii = _radii(covariance, opacities, means2d, drawn, width, height, radius_clip)
    return means2d, conics, z, radii


def _composite_camera(means2d, conics, colors, opacities, width: int, height: int):
    """One camera's splats, already in depth order: features (h, w, d) and transmittance (h, w)."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = means2d[:, 0] - xs[..., None], means2d[:, 1] - ys[..., None]
    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    alphas = (opacities * torch.exp(-sigma)).clamp(max=ALPHA_MAX)
    alphas = torch.where((sigma < 0) | (alphas < ALPHA_THRESHOLD), torch.zeros_like(alphas), alphas)
    remaining = torch.cumprod(1 - alphas, dim=-1)
    before = torch.cat([torch.ones_like(remaining[..., :1]), remaining[..., :-1]], dim=-1)
    weights = alphas * before * (remaining.detach() > TRANSMITTANCE_MIN)
    return weights @ colors, 1 - weights.sum(-1)


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
    """Twin of `numba_rasterizer.composite`."""
    images, transmittances = [], []
    for camera in range(means2d.shape[0]):
        visible = (radii[camera] > 0).all(-1).nonzero()[:, 0]
        order = visible[depths[camera, visible].detach().argsort(stable=True)]
        means, shapes, features, alphas = (x[camera, order] for x in (means2d, conics, colors, opacities))
        image, transmittance = _composite_camera(means, shapes, features, alphas, width, height)
        images.append(image)
        transmittances.append(transmittance)
    return torch.stack(images), torch.stack(transmittances)
