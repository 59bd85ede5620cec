"""Projection of 3D Gaussians to 2D splats on the CPU, with hand-written gradients.

EWA splatting as in gsplat 1.5 ("classic", pinhole): with camera rotation R, M = rotation * scale,
    J = [[fx/z, 0, -fx u/z], [0, fy/z, -fy v/z]],  u, v = x/z, y/z clamped to the field of view + 30%,
    cov2d = (J R M)(J R M)' + eps2d I,  conic = cov2d^-1   (Zwicker et al. 2001; Kerbl et al. 2023, Eq. 5).
Gradients reach means, quats, scales and viewmats; intrinsics get none, as in gsplat. Kernels compute in
float64 whatever the dtype of the input.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene4d.rendering.constants import ALPHA_THRESHOLD, EXTENT_MAX, FOV_MARGIN
from scene4d.rendering.numba_compile import compile_helper, compile_kernel, use_torch_threads


@compile_helper
def _normalised(quat):
    norm = math.sqrt(max(quat[0] ** 2 + quat[1] ** 2 + quat[2] ** 2 + quat[3] ** 2, 1e-24))
    return quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm, norm


@compile_helper
def _rotation(w, x, y, z, rotation):
    """Rotation matrix of a unit quaternion (wxyz)."""
    rotation[0, 0] = 1 - 2 * (y * y + z * z)
    rotation[0, 1] = 2 * (x * y - w * z)
    rotation[0, 2] = 2 * (x * z + w * y)
    rotation[1, 0] = 2 * (x * y + w * z)
    rotation[1, 1] = 1 - 2 * (x * x + z * z)
    rotation[1, 2] = 2 * (y * z - w * x)
    rotation[2, 0] = 2 * (x * z - w * y)
    rotation[2, 1] = 2 * (y * z + w * x)
    rotation[2, 2] = 1 - 2 * (x * x + y * y)


@compile_helper
def _clamp(value, low, high):
    """The clamped value and its derivative."""
    if value < low:
        return low, 0.0
    if value > high:
        return high, 0.0
    return value, 1.0


@compile_helper
def _camera_point(mean, view):
    return (
        view[0, 0] * mean[0] + view[0, 1] * mean[1] + view[0, 2] * mean[2] + view[0, 3],
        view[1, 0] * mean[0] + view[1, 1] * mean[1] + view[1, 2] * mean[2] + view[1, 3],
        view[2, 0] * mean[0] + view[2, 1] * mean[1] + view[2, 2] * mean[2] + view[2, 3],
    )


@compile_helper
def _clamped_slopes(x, y, z, K, width, height):
    """x/z and y/z clamped to the field of view and a margin: (u, du, v, dv)."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = FOV_MARGIN * 0.5 * width / fx, FOV_MARGIN * 0.5 * height / fy
    u, du = _clamp(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    v, dv = _clamp(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    return u, du, v, dv


@compile_helper
def _jacobian_rows(factor, view, K, z, u, v, turned, row0, row1):
    """Fills turned = R M and the rows of J R M."""
    for i in range(3):
        for k in range(3):
            turned[i, k] = view[i, 0] * factor[0, k] + view[i, 1] * factor[1, k] + view[i, 2] * factor[2, k]
    for k in range(3):
        row0[k] = K[0, 0] / z * (turned[0, k] - u * turned[2, k])
        row1[k] = K[1, 1] / z * (turned[1, k] - v * turned[2, k])


@compile_helper
def _project_one(mean, opacity, factor, view, K, limits, turned, row0, row1):
    """Projects one Gaussian to one camera; `limits` is (width, height, near, far, radius_clip, eps2d).

    Returns:
        (px, py, conic a, b, c, z, radius x, radius y), radii 0 where it is culled.
    """
    width, height, near, far, radius_clip, eps2d = limits
    x, y, z = _camera_point(mean, view)
    if not (near < z < far) or opacity < ALPHA_THRESHOLD:
        return 0.0, 0.0, 0.0, 0.0, 0.0, z, 0.0, 0.0
    u, _, v, _ = _clamped_slopes(x, y, z, K, width, height)
    _jacobian_rows(factor, view, K, z, u, v, turned, row0, row1)
    a = row0[0] ** 2 + row0[1] ** 2 + row0[2] ** 2 + eps2d
    b = row0[0] * row1[0] + row0[1] * row1[1] + row0[2] * row1[2]
    c = row1[0] ** 2 + row1[1] ** 2 + row1[2] ** 2 + eps2d
    determinant = a * c - b * b
    if not determinant > 0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, z, 0.0, 0.0
    px, py = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
    extent = min(EXTENT_MAX, math.sqrt(2.0 * math.log(opacity / ALPHA_THRESHOLD)))
    radius_x, radius_y = math.ceil(extent * math.sqrt(a)) * 1.0, math.ceil(extent * math.sqrt(c)) * 1.0
    too_small = radius_x <= radius_clip and radius_y <= radius_clip
    off_x = px + radius_x <= 0 or px - radius_x >= width
    off_y = py + radius_y <= 0 or py - radius_y >= height
    if too_small or off_x or off_y:
        radius_x = radius_y = 0.0
    return px, py, c / determinant, -b / determinant, a / determinant, z, radius_x, radius_y


@compile_kernel
def _forward_kernel(means, quats, scales, opacities, views, Ks, limits, chunks, splats):
    gaussians, cameras = means.shape[0], views.shape[0]
    for chunk in numba.prange(chunks):
        rotation, factor, turned = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
        row0, row1 = np.empty(3), np.empty(3)
        for g in range(chunk * gaussians // chunks, (chunk + 1) * gaussians // chunks):
            w, x, y, z, _ = _normalised(quats[g])
            _rotation(w, x, y, z, rotation)
            for i in range(3):
                for k in range(3):
                    factor[i, k] = rotation[i, k] * scales[g, k]
            for c in range(cameras):
                splat = _project_one(
                    means[g], opacities[g], factor, views[c], Ks[c], limits, turned, row0, row1
                )
                for i in range(8):
                    splats[c, g, i] = splat[i]


@compile_helper
def _conic_to_covariance(conic, grad_conic):
    """Gradient of the 2D covariance (a, b, c) from that of its inverse: -Q G Q, symmetric."""
    a, b, c = conic[0], conic[1], conic[2]
    ga, gb, gc = grad_conic[0], 0.5 * grad_conic[1], grad_conic[2]
    p00, p01, p10, p11 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
    return -(p00 * a + p01 * b), -(p00 * b + p01 * c) - (p10 * a + p11 * b), -(p10 * b + p11 * c)


@compile_helper
def _backward_one(mean, factor, view, K, limits, conic, grad, scratch, grad_mean, grad_factor, grad_view):
    """Adds one camera's gradients of one Gaussian to grad_mean, grad_factor (3, 3) and grad_view (4, 4).

    `grad` is (px, py, conic a, b, c, z).
    """
    turned, row0, row1, grad_turned = scratch
    x, y, z = _camera_point(mean, view)
    u, du, v, dv = _clamped_slopes(x, y, z, K, limits[0], limits[1])
    _jacobian_rows(factor, view, K, z, u, v, turned, row0, row1)
    ga, gb, gc = _conic_to_covariance(conic, grad[2:5])
    fx, fy = K[0, 0] / z, K[1, 1] / z
    grad_u = grad_v = grad_log_z = 0.0
    for k in range(3):
        g0, g1 = 2 * ga * row0[k] + gb * row1[k], 2 * gc * row1[k] + gb * row0[k]
        grad_turned[0, k], grad_turned[1, k] = fx * g0, fy * g1
        grad_turned[2, k] = -fx * u * g0 - fy * v * g1
        grad_u -= fx * g0 * turned[2, k]
        grad_v -= fy * g1 * turned[2, k]
        grad_log_z -= g0 * row0[k] + g1 * row1[k]
    grad_slope_x, grad_slope_y = grad_u * du + grad[0] * K[0, 0], grad_v * dv + grad[1] * K[1, 1]
    point = (
        grad_slope_x / z,
        grad_slope_y / z,
        grad[5] + (grad_log_z - (grad_slope_x * x + grad_slope_y * y) / z) / z,
    )
    for i in range(3):
        for k in range(3):
            grad_mean[k] += view[i, k] * point[i]
            grad_view[i, k] += point[i] * mean[k]
            for j in range(3):
                grad_factor[j, k] += view[i, j] * grad_turned[i, k]
                grad_view[i, j] += grad_turned[i, k] * factor[j, k]
        grad_view[i, 3] += point[i]


@compile_helper
def _rotation_to_quaternion(w, x, y, z, norm, grad, grad_quat):
    """Gradient of an unnormalised quaternion from that of its rotation matrix."""
    turn_x, turn_y, turn_z = grad[2, 1] - grad[1, 2], grad[0, 2] - grad[2, 0], grad[1, 0] - grad[0, 1]
    xy, xz, yz = grad[0, 1] + grad[1, 0], grad[0, 2] + grad[2, 0], grad[1, 2] + grad[2, 1]
    gw = 2 * (x * turn_x + y * turn_y + z * turn_z)
    gx = 2 * (-2 * x * (grad[1, 1] + grad[2, 2]) + y * xy + z * xz + w * turn_x)
    gy = 2 * (-2 * y * (grad[0, 0] + grad[2, 2]) + x * xy + z * yz + w * turn_y)
    gz = 2 * (-2 * z * (grad[0, 0] + grad[1, 1]) + x * xz + y * yz + w * turn_z)
    along = gw * w + gx * x + gy * y + gz * z
    grad_quat[0], grad_quat[1] = (gw - along * w) / norm, (gx - along * x) / norm
    grad_quat[2], grad_quat[3] = (gy - along * y) / norm, (gz - along * z) / norm


@compile_kernel
def _backward_kernel(
    means, quats, scales, views, Ks, limits, splats, alive, grads, chunks,
    grad_means, grad_quats, grad_scales, grad_views,
):  # fmt: skip
    gaussians, cameras = means.shape[0], views.shape[0]
    for chunk in numba.prange(chunks):
        rotation, factor = np.empty((3, 3)), np.empty((3, 3))
        grad_factor, grad_rotation = np.empty((3, 3)), np.empty((3, 3))
        scratch = (np.empty((3, 3)), np.empty(3), np.empty(3), np.empty((3, 3)))
        for g in range(chunk * gaussians // chunks, (chunk + 1) * gaussians // chunks):
            w, x, y, z, norm = _normalised(quats[g])
            _rotation(w, x, y, z, rotation)
            for i in range(3):
                for k in range(3):
                    factor[i, k] = rotation[i, k] * scales[g, k]
                    grad_factor[i, k] = 0.0
            for c in range(cameras):
                if alive[c, g]:
                    _backward_one(
                        means[g], factor, views[c], Ks[c], limits, splats[c, g, 2:5], grads[c, g], scratch,
                        grad_means[g], grad_factor, grad_views[chunk, c],
                    )  # fmt: skip
            for k in range(3):
                for i in range(3):
                    grad_scales[g, k] += grad_factor[i, k] * rotation[i, k]
                    grad_rotation[i, k] = grad_factor[i, k] * scales[g, k]
            _rotation_to_quaternion(w, x, y, z, norm, grad_rotation, grad_quats[g])


def _float64(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float64).numpy())


class _Project(torch.autograd.Function):
    """Autograd node around the two kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        limits: tuple[float, ...],
    ) -> tuple[Tensor, ...]:
        arrays = tuple(_float64(x) for x in (means, quats, scales, opacities, viewmats, Ks))
        splats = np.empty((viewmats.shape[0], means.shape[0], 8))
        ctx.chunks = max(1, min(use_torch_threads(), means.shape[0] // 256))
        _forward_kernel(*arrays, limits, ctx.chunks, splats)
        ctx.arrays, ctx.limits, ctx.splats, ctx.dtype = arrays, limits, splats, means.dtype
        parts = (splats[..., :2], splats[..., 2:5], splats[..., 5])
        radii = torch.from_numpy(splats[..., 6:]).to(torch.int32)
        ctx.mark_non_differentiable(radii)
        return *(torch.from_numpy(x.copy()).to(ctx.dtype) for x in parts), radii

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_means2d: Tensor, grad_conics: Tensor, grad_depths: Tensor, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        means, quats, scales, _, views, Ks = ctx.arrays
        parts = (_float64(grad_means2d), _float64(grad_conics), _float64(grad_depths)[..., None])
        grads = np.concatenate(parts, axis=-1)
        alive = ctx.splats[..., 6] > 0
        out = tuple(np.zeros_like(x) for x in (means, quats, scales))
        grad_views = np.zeros((ctx.chunks, *views.shape))
        use_torch_threads()
        _backward_kernel(
            means, quats, scales, views, Ks, ctx.limits, ctx.splats, alive, grads, ctx.chunks, *out, grad_views
        )  # fmt: skip
        grad_means, grad_quats, grad_scales, grad_viewmats = (
            torch.from_numpy(x).to(ctx.dtype) for x in (*out, grad_views.sum(0))
        )
        return grad_means, grad_quats, grad_scales, None, grad_viewmats, None, None


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
    """Projects Gaussians to every camera; arguments as in `rasterize`.

    Returns:
        Centres (pixels), conics (1/pixels^2), depths (planar z) and radii (pixels, 0 where a Gaussian is
        culled: behind the near plane, beyond the far plane, off-screen, or fainter than 1/255).
    """
    limits = tuple(float(x) for x in (width, height, near_plane, far_plane, radius_clip, eps2d))
    return _Project.apply(means, quats, scales, opacities, viewmats, Ks, limits)
