"""Camera paths. The world of all prepared data has z up; cameras are OpenCV c2w x right, y down, z ahead."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

UP = (0.0, 0.0, 1.0)


def look_at(
    position: Float[Tensor, "*batch 3"],
    target: Float[Tensor, "*#batch 3"],
    up: tuple[float, float, float] = UP,
) -> Float[Tensor, "*batch 4 4"]:
    """Cameras at `position` that look at `target`, their image upright with respect to `up`.

    Args:
        position: Camera centres, scene units.
        target: Points that are projected onto the principal point.
        up: World direction that is up in the image.

    Raises:
        ValueError: A camera sits on its target or looks straight along `up`.
    """
    forward = target - position
    distance = forward.norm(dim=-1, keepdim=True)
    if bool((distance < 1e-9).any()):
        raise ValueError("a camera cannot look at its own position")
    forward = forward / distance
    right = torch.linalg.cross(forward, position.new_tensor(up).expand_as(forward))
    if bool((right.norm(dim=-1) < 1e-6).any()):
        raise ValueError(f"a camera looks straight along up = {up}: its roll is undefined")
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    c2w = torch.zeros(*position.shape[:-1], 4, 4, dtype=position.dtype, device=position.device)
    c2w[..., :3, :] = torch.stack([right, down, forward, position], dim=-1)
    c2w[..., 3, 3] = 1
    return c2w


def spherical(
    azimuth: Float[Tensor, "*batch"],
    elevation: Float[Tensor, "*batch"],
    distance: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3"]:
    """Offsets from a target: azimuth from +x towards +y, elevation above the xy plane; radians."""
    flat = distance * elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), distance * elevation.sin()], dim=-1)


def arc(
    views: int,
    azimuth: float,
    total_angle: float,
    elevation: float,
    elevation_change: float,
    distance: float,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "v 4 4"]:
    """Evenly spaced cameras on an arc around a target, all looking at it.

    Args:
        views: Number of cameras.
        azimuth: Azimuth of the first camera, degrees from +x towards +y.
        total_angle: Azimuth of the last camera minus that of the first, degrees; negative = clockwise.
        elevation: Elevation of the first camera, degrees.
        elevation_change: Elevation of the last camera minus that of the first, degrees.
        distance: From the target, scene units.
        target: Point that the cameras look at, world coordinates.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    progress = torch.linspace(0, 1, views)
    azimuths = torch.deg2rad(azimuth + total_angle * progress)
    elevations = torch.deg2rad(elevation + elevation_change * progress)
    centre = torch.tensor(target, dtype=torch.float32)
    return look_at(centre + spherical(azimuths, elevations, torch.full((views,), float(distance))), centre)


def common_target(c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "3"]:
    """The point nearest to all viewing axes in the least-squares sense.

    Viewing axes that are nearly parallel have no such point; a small weight then pulls it towards one
    unit before the mean camera.
    """
    position, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    across = torch.eye(3, dtype=c2w.dtype, device=c2w.device) - forward[:, :, None] * forward[:, None, :]
    guess = (position + forward).mean(0)
    weak = 1e-4 * torch.eye(3, dtype=c2w.dtype, device=c2w.device)
    right_side = (across @ position[:, :, None]).mean(0)[:, 0] + weak @ guess
    return torch.linalg.solve(across.mean(0) + weak, right_side)


def orbit(
    c2w: Float[Tensor, "v 4 4"],
    frames: int,
    widen: float = 1.15,
    bob: float = 4.0,
    target: Float[Tensor, "3"] | None = None,
    up: Float[Tensor, "3"] | None = None,
) -> Float[Tensor, "frames 4 4"]:
    """A smooth looping path of novel views: sways along the arc of the given cameras, slightly up and down.

    Args:
        c2w: Cameras along an arc, in order; any world, z up or not (recovered cameras have any frame).
        frames: Length of one loop.
        widen: Swayed angle over the angle that the cameras span.
        bob: Height of the up and down motion, degrees.
        target: Point that the path looks at; default: the point nearest to all viewing axes.
        up: World direction that stays up; default: minus the mean y axis of the cameras.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    target = common_target(c2w) if target is None else target
    up = -c2w[:, :3, 1].mean(0) if up is None else up
    frame = _target_frame(c2w, target, up / up.norm())
    azimuth, elevation, distance = _to_spherical((c2w[:, :3, 3] - target) @ frame)
    phase = torch.arange(frames, dtype=c2w.dtype, device=c2w.device) / frames * 2 * math.pi
    progress = 0.5 - 0.5 * widen * phase.cos()
    offsets = spherical(
        _along(azimuth, progress),
        _along(elevation, progress) + math.radians(bob) * (2 * phase).sin(),
        _along(distance, progress),
    )
    axis = tuple(frame[:, 2].tolist())
    return look_at(target + offsets @ frame.mT, target, axis)


def _target_frame(c2w: Tensor, target: Tensor, up: Tensor) -> Float[Tensor, "3 3"]:
    """Columns x, y, z of a world with z = up, whose x axis points from the target to the mean camera."""
    towards = (c2w[:, :3, 3] - target).mean(0)
    towards = towards - (towards @ up) * up
    towards = towards / towards.norm().clamp_min(1e-9)
    return torch.stack([towards, torch.linalg.cross(up, towards), up], dim=1)


def _to_spherical(offsets: Float[Tensor, "v 3"]) -> tuple[Tensor, Tensor, Tensor]:
    distance = offsets.norm(dim=-1)
    azimuth = torch.atan2(offsets[:, 1], offsets[:, 0])
    return azimuth, torch.asin((offsets[:, 2] / distance).clamp(-1, 1)), distance


def _along(values: Float[Tensor, "v"], progress: Float[Tensor, "frames"]) -> Float[Tensor, "frames"]:
    """Least-squares line through per-camera values over progress 0..1, which may leave it."""
    if len(values) == 1:
        return values.expand(len(progress))
    knots = torch.linspace(0, 1, len(values), dtype=values.dtype, device=values.device) - 0.5
    slope = (knots * values).sum() / (knots * knots).sum()
    return values.mean() + slope * (progress - 0.5)
