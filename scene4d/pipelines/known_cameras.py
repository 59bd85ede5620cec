"""Cameras that a user knows, whole or their intrinsics alone, in the world and the unit of length of a network."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import camera_spread, relative_to_first, scale_cameras
from scene4d.geometry.useful_scenes import camera_checks
from scene4d.types import Cameras, SceneBatch

Known = Literal["nothing", "intrinsics", "cameras"]


def known_part(batch: SceneBatch, known: Known) -> tuple[Cameras | None, Float[Tensor, "b v 3 3"] | None]:
    """What of a batch's cameras a reconstruction is to use: whole cameras, or intrinsics alone.

    Raises:
        ValueError: The batch has no cameras; names its sources.
    """
    if known == "nothing":
        return None, None
    if batch.cameras is None:
        raise ValueError(
            f"known is {known!r}, but sources {sorted(set(batch.source))} have no cameras; set known: nothing"
        )
    return (batch.cameras, None) if known == "cameras" else (None, batch.cameras.intrinsics)


def check_known(cameras: Cameras, shape: tuple[int, int]) -> None:
    """Checks cameras that a user gives.

    Args:
        cameras: The cameras.
        shape: Number of scenes and of views of the images.

    Raises:
        ValueError: There is another number of them, or one cannot be; names the scene.
    """
    found = tuple(cameras.c2w.shape[:-2]), tuple(cameras.intrinsics.shape[:-2])
    if found != (shape, shape):
        raise ValueError(
            f"known cameras are of shape {found[0]} and {found[1]}, images of {shape} (scenes, views)"
        )
    for fault, fine in camera_checks(cameras).items():
        if not bool(fine.all()):
            scenes = (~fine).nonzero().flatten().tolist()
            raise ValueError(f"known cameras of scenes {scenes}: {fault}")


def in_world_of(predicted: Cameras, known: Cameras) -> Cameras:
    """Known cameras, in any world and unit, as a network would say them.

    The first camera becomes the identity, and the cameras become as far apart as the predicted ones. The unit of
    length stays as it is where one of the two has all views in one place.
    """
    moved = Cameras(relative_to_first(known.c2w), known.intrinsics)
    if moved.c2w.shape[1] == 1:
        return moved
    ours, theirs = camera_spread(moved.c2w), camera_spread(predicted.c2w.detach())
    near = 1e-6 * known.c2w[..., :3, 3].abs().flatten(1).amax(1)
    apart = (ours > near) & (theirs > 0)
    return scale_cameras(moved, torch.where(apart, theirs / ours.clamp(min=1e-12), 1))
