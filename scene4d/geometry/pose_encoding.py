"""VGGT's nine numbers for a camera: translation, quaternion (XYZW) and field of view (h, w).

The encoded extrinsics are world-to-camera. Only centred principal points can be expressed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import invert_rigid
from scene4d.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from scene4d.types import Cameras

MIN_FIELD_OF_VIEW = 0.05  # radians; the head's ReLU may return 0, which has no focal length


def encode_pose(cameras: Cameras, height: int, width: int) -> Float[Tensor, "*batch 9"]:
    """Cameras to (tx, ty, tz, qx, qy, qz, qw, fov_h, fov_w), angles in radians."""
    viewmats = invert_rigid(cameras.c2w)
    quats = matrix_to_quaternion(viewmats[..., :3, :3]).roll(-1, -1)  # wxyz -> xyzw
    fov_h = 2 * torch.atan(height / 2 / cameras.intrinsics[..., 1, 1])
    fov_w = 2 * torch.atan(width / 2 / cameras.intrinsics[..., 0, 0])
    return torch.cat([viewmats[..., :3, 3], quats, fov_h[..., None], fov_w[..., None]], -1)


def decode_pose(encoding: Float[Tensor, "*batch 9"], height: int, width: int) -> Cameras:
    """Inverse of `encode_pose`; f = (size / 2) / tan(fov / 2), principal point at the image centre."""
    rotation = quaternion_to_matrix(encoding[..., 3:7].roll(1, -1))
    top = torch.cat([rotation, encoding[..., :3, None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    fov = encoding[..., 7:].clamp(min=MIN_FIELD_OF_VIEW, max=3.0)
    intrinsics = torch.zeros_like(rotation)
    intrinsics[..., 0, 0] = width / 2 / torch.tan(fov[..., 1] / 2)
    intrinsics[..., 1, 1] = height / 2 / torch.tan(fov[..., 0] / 2)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return Cameras(invert_rigid(torch.cat([top, bottom], -2)), intrinsics)
