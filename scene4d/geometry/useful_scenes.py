"""Which scenes of a batch a reconstruction can learn from; the others are left out, counted and named."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.geometry.cameras import camera_spread
from scene4d.types import Cameras, SceneBatch

PATIENCE = 100  # scenes of a source, all useless, after which it is no accident
RIGID = 1e-2  # largest entry of R^T R - I
SAME_PLACE = 1e-6  # of the distance from the origin: float32 tells no nearer cameras apart

log = logging.getLogger(__name__)


def known_depths(batch: SceneBatch) -> Float[Tensor, "b v t h w"]:
    """Depth of all views, 0 where it is unknown, negative or not finite."""
    if batch.depths is None:
        return torch.zeros_like(batch.images[:, :, :, 0])
    return torch.where(batch.depths.isfinite() & (batch.depths > 0), batch.depths, 0)


def why_useless(batch: SceneBatch, depth: bool = False) -> list[str]:
    """Why no loss can use the scenes of a batch, in one phrase per scene; empty for those that can be used.

    Args:
        batch: Views, inputs first.
        depth: Whether every timestep needs depth in its input views. Otherwise cameras that are apart will do.
    """
    known = (known_depths(batch)[:, : batch.inputs] > 0).any(1).flatten(2).any(-1)  # b t
    checks = {"an image is not finite": batch.images.isfinite().flatten(1).all(1)}
    if batch.cameras is None:
        checks["it has no cameras"] = torch.zeros_like(known[:, 0])
    else:
        checks |= camera_checks(batch.cameras)
        apart = _apart(batch.cameras[:, : batch.inputs])
        checks["no depth is known in its input views, and these share one place: no unit of length"] = (
            known.any(1) | apart
        )
    if depth:
        checks["no depth is known at a timestep of its input views"] = known.all(1)
    passed = torch.stack(list(checks.values())).T.tolist()
    return [next((why for why, fine in zip(checks, row) if not fine), "") for row in passed]


def placeholder(batch: SceneBatch) -> SceneBatch:
    """One grey scene of the batch's shape, for a step without any useful scene."""
    return replace(batch.sample(0), images=torch.full_like(batch.images[:1], 0.5))


def refuse_useless(batch: SceneBatch, depth: bool = False) -> None:
    """Checks that all scenes can be used, which scores need; the arguments are those of `why_useless`.

    Raises:
        ValueError: One cannot; names it.
    """
    for index, why in enumerate(why_useless(batch, depth)):
        if why:
            raise ValueError(f"source {batch.source[index]!r}, sample {_key(batch, index)!r}: {why}")


class UsefulScenes:
    """Leaves useless scenes out of batches of training, and names each once.

    Args:
        depth: Whether every timestep needs depth, see `why_useless`.

    Attributes:
        left_out: Number of scenes that were left out, by source.
    """

    def __init__(self, depth: bool = False) -> None:
        self.depth, self.left_out = depth, Counter[str]()
        self._used: set[str] = set()
        self._named: set[tuple[str, str]] = set()

    def of(self, batch: SceneBatch) -> SceneBatch | None:
        """The batch without its useless scenes; None if there is no other.

        Raises:
            ValueError: A source has given nothing but useless scenes so far, 100 of them; names it.
        """
        reasons = why_useless(batch, self.depth)
        useful = [index for index, why in enumerate(reasons) if not why]
        self._used.update(batch.source[index] for index in useful)
        for index, why in enumerate(reasons):
            if why:
                self._leave_out(batch.source[index], _key(batch, index), why)
        self._name_lost_depth(batch)
        if len(useful) == len(reasons):
            return batch
        return batch.scenes(useful) if useful else None

    def _leave_out(self, source: str, key: str, why: str) -> None:
        self.left_out[source] += 1
        self._warn(source, key, f"source {source!r}: skipped sample {key!r}, which no loss can use: {why}")
        if source not in self._used and self.left_out[source] >= PATIENCE:
            raise ValueError(
                f"source {source!r}: none of its first {PATIENCE} scenes can be used; sample {key!r}: {why}"
            )

    def _name_lost_depth(self, batch: SceneBatch) -> None:
        """Pixels, not scenes, are lost where depth is negative or not finite."""
        if batch.depths is None:
            return
        lost = (~(batch.depths >= 0) | batch.depths.isinf()).flatten(1).sum(1).tolist()
        for index, count in enumerate(lost):
            if count:
                source, key = batch.source[index], _key(batch, index)
                what = f"depth of {count} pixels is negative or not finite, it counts as unknown"
                self._warn(source, key, f"source {source!r}: sample {key!r}: {what}")

    def _warn(self, source: str, key: str, line: str) -> None:
        if (source, key) not in self._named:
            self._named.add((source, key))
            log.warning("%s", line)


def camera_checks(cameras: Cameras) -> dict[str, Bool[Tensor, " b"]]:
    """What can be wrong with cameras `b v`, and which scenes are free of it; NaN is free of nothing."""
    c2w, intrinsics = cameras.c2w, cameras.intrinsics
    finite = c2w.isfinite().flatten(1).all(1) & intrinsics.isfinite().flatten(1).all(1)
    rotation = c2w[..., :3, :3]
    error = rotation.mT @ rotation - torch.eye(3, dtype=c2w.dtype, device=c2w.device)
    rows = [(x[..., -1, :] - x.new_tensor([*[0] * (x.shape[-1] - 1), 1])).abs() for x in (c2w, intrinsics)]
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], -1)
    return {
        "a camera is unknown or not finite": finite,
        "a focal length is not positive": (focal > 0).flatten(1).all(1),
        "a camera is no rotation and translation": (error.abs() < RIGID).flatten(1).all(1),
        "a camera is a reflection": (_determinant(rotation) > 0).all(1),
        "the last row of a camera is not 0 0 0 1": (rows[0] < RIGID).flatten(1).all(1),
        "the last row of intrinsics is not 0 0 1": (rows[1] < RIGID).flatten(1).all(1),
    }


def _determinant(matrices: Float[Tensor, "b v 3 3"]) -> Float[Tensor, "b v"]:
    """By the triple product, which every device and type has."""
    x, y, z = matrices.unbind(-1)
    return (torch.linalg.cross(x, y) * z).sum(-1)


def _apart(cameras: Cameras) -> Bool[Tensor, " b"]:
    """Whether cameras `b v` of a scene have different places; False for a single one."""
    far = cameras.c2w[..., :3, 3].abs().flatten(1).amax(1)
    return camera_spread(cameras.c2w) > SAME_PLACE * far


def _key(batch: SceneBatch, index: int) -> str:
    return batch.keys[index] if batch.keys else str(index)
