"""Errors of predicted cameras and depths against the truth of normalised scenes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import relative_to_first
from scene4d.geometry.pose_encoding import decode_pose
from scene4d.geometry.rotations import rotation_angle
from scene4d.geometry.supervision import masked_mean
from scene4d.types import Cameras, Prediction

ERRORS = ("rotation_deg_first", "rotation_deg", "rotation_deg_identity", "depth_abs_rel")


@torch.no_grad()
def geometry_errors(
    prediction: Prediction, depths: Float[Tensor, "b v t h w"], cameras: Cameras
) -> dict[str, Float[Tensor, ""]]:
    """Mean errors of a batch: rotations in degrees, depth relative to the truth.

    Returns:
        `rotation_deg_first` (after the first iteration of the camera head), `rotation_deg` (after the last),
        `rotation_deg_identity` (of cameras that do not turn), `depth_abs_rel`.
    """
    with torch.autocast(depths.device.type, enabled=False):
        first = decode_pose(prediction.poses[0].float(), *depths.shape[-2:])
        turned = relative_to_first(first.c2w)[:, 1:, :3, :3]
    true, found = (x.c2w[:, 1:, :3, :3] for x in (cameras, prediction.cameras))
    identity = torch.eye(3, device=depths.device).expand_as(true)
    relative = (prediction.depths - depths).abs() / depths.clamp(min=1e-6)
    return {
        "rotation_deg_first": rotation_angle(turned, true).mean(),
        "rotation_deg": rotation_angle(found, true).mean(),
        "rotation_deg_identity": rotation_angle(identity, true).mean(),
        "depth_abs_rel": masked_mean(relative, depths > 0),
    }
