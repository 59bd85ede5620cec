"""Pinhole cameras: depth to points and back, relative poses, and the normalised scene.

Convention everywhere: camera-to-world 4x4 with OpenCV axes (x right, y down, z forward), intrinsics in
pixels, pixel centres at +0.5, depth along z.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from scene4d.types import Cameras


def pixel_rays(
    intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int
) -> Float[Tensor, "*batch {height} {width} 3"]:
    """Direction through every pixel centre, in the camera frame, scaled to z = 1."""
    rows, columns = (
        torch.arange(n, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5 for n in (height, width)
    )
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (u - cx) / fx, (v - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], -1)


def unproject_to_camera(
    depths: Float[Tensor, "*batch h w"], intrinsics: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch h w 3"]:
    """Planar depths to points in their own camera's frame."""
    return depths[..., None] * pixel_rays(intrinsics, *depths.shape[-2:])


def transform(
    matrices: Float[Tensor, "*#batch 4 4"], points: Float[Tensor, "*#batch h w 3"]
) -> Float[Tensor, "*#batch h w 3"]:
    """Applies one rigid transform to a map of points."""
    rotated = einsum(matrices[..., :3, :3], points, "... i j, ... h w j -> ... h w i")
    return rotated + matrices[..., None, None, :3, 3]


def unproject(depths: Float[Tensor, "*batch h w"], cameras: Cameras) -> Float[Tensor, "*batch h w 3"]:
    """Planar depths to world points; cameras have the same leading axes as the depths."""
    return transform(cameras.c2w, unproject_to_camera(depths, cameras.intrinsics))


def project(
    points: Float[Tensor, "*batch n 3"], cameras: Cameras, near: float = 1e-6
) -> tuple[Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n"]]:
    """World points to pixel positions (u, v) and planar depth.

    Points at or behind `near` keep their (negative) depth; their position is computed at `near`, so that no
    gradient is infinite: mask them by depth.
    """
    inverse = invert_rigid(cameras.c2w)
    local = einsum(inverse[..., :3, :3], points, "... i j, ... n j -> ... n i") + inverse[..., None, :3, 3]
    depth = local[..., 2]
    plane = local[..., :2] / depth.clamp(min=near)[..., None]
    focal = torch.stack([cameras.intrinsics[..., 0, 0], cameras.intrinsics[..., 1, 1]], -1)
    centre = cameras.intrinsics[..., :2, 2]
    return plane * focal[..., None, :] + centre[..., None, :], depth


def invert_rigid(matrices: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rotation + translation, by transposing: exact and cheap."""
    rotation = matrices[..., :3, :3].transpose(-1, -2)
    translation = -rotation @ matrices[..., :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), matrices[..., 3:, :]], -2)


def relative_to_first(c2w: Float[Tensor, "*batch v 4 4"]) -> Float[Tensor, "*batch v 4 4"]:
    """Moves the world so that the first camera sits at the origin, looking along z."""
    return invert_rigid(c2w[..., :1, :, :]) @ c2w


def scale_cameras(cameras: Cameras, scale: Float[Tensor, "*batch"]) -> Cameras:
    """Multiplies camera positions by a scale per scene (cameras: `*batch v`)."""
    factor = torch.ones_like(cameras.c2w)
    factor[..., :3, 3] = scale[..., None, None]
    return Cameras(cameras.c2w * factor, cameras.intrinsics)


def scene_scale(
    depths: Float[Tensor, "b v t h w"], cameras: Cameras, minimum: float = 1e-6
) -> Float[Tensor, " b"]:
    """Mean distance of all known points (depth > 0) from the first camera, VGGT's unit of length.

    Args:
        depths: Planar depth of the input views, 0 where unknown.
        cameras: Cameras `b v` in the world where the first camera is the identity.
        minimum: Lower bound of the result.

    Returns:
        The distance; NaN for scenes without any known depth.
    """
    per_frame = cameras[:, :, None]
    distance = unproject(depths, per_frame).norm(dim=-1)
    known = (depths > 0).to(distance.dtype)
    total = (distance * known).sum((1, 2, 3, 4))
    return (total / known.sum((1, 2, 3, 4))).clamp(min=minimum)


def camera_spread(c2w: Float[Tensor, "*batch v 4 4"]) -> Float[Tensor, "*batch"]:
    """Mean distance of the other cameras from the first; NaN if there are none."""
    centres = c2w[..., :3, 3]
    return (centres[..., 1:, :] - centres[..., :1, :]).norm(dim=-1).mean(-1)


def normalise_scene(
    depths: Float[Tensor, "b v t h w"],
    cameras: Cameras,
    inputs: int | None = None,
    predicted: Cameras | None = None,
) -> tuple[Float[Tensor, "b v t h w"], Cameras, Float[Tensor, " b"]]:
    """First camera becomes the identity, the mean distance of the input points becomes 1.

    Scenes without any known depth take their unit of length from a network that was trained in such scenes:
    their input cameras become as far apart as the predicted ones.

    Args:
        depths: Planar depth, 0 where unknown.
        cameras: Cameras `b v`.
        inputs: The unit of length is measured on the first `inputs` views only; None = all. Target views
            must not take part: they are unknown at test time.
        predicted: Cameras of these input views in the network's unit; only used for scenes without depth.

    Returns:
        Depths and cameras in the new world, and the scale they were divided by.

    Raises:
        ValueError: A scene has no unit of length; says which.
    """
    moved = Cameras(relative_to_first(cameras.c2w), cameras.intrinsics)
    scale = scene_scale(depths[:, :inputs], moved[:, :inputs])
    if predicted is not None:
        ratio = camera_spread(moved.c2w[:, :inputs]) / camera_spread(predicted.c2w).clamp(min=1e-6)
        scale = torch.where(scale.isnan(), ratio, scale)
    right = scale > 0
    if (
        predicted is not None
    ):  # a network that has diverged is no fault of the scene: its NaN must reach the loss
        right |= ~predicted.c2w.isfinite().flatten(1).all(1)
    unknown = (~right).nonzero().flatten().tolist()
    if unknown:
        raise ValueError(
            f"scenes {unknown} of the batch have no unit of length: no depth is known in their input views"
            + ("" if predicted is None else ", and these views share one place")
        )
    return depths / scale[:, None, None, None, None], scale_cameras(moved, 1 / scale), scale
