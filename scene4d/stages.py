"""Stages of a training whose grids grow, and how many batches make the global batch of one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scene4d.latent_grid import latent_frames


@dataclass(frozen=True)
class Stage:
    """One stage of a training, for example 8 views x 29 frames until step 4,000 (paper, App. B).

    Args:
        until: Optimizer step, counted from the beginning of the run, at which the stage ends.
        frames: Frames of the training grids, 4k + 1; None keeps those of the sources' selections.
        views: Views of the training grids; None keeps those of the sources' selections.
        batch_size: Samples per batch and rank; None keeps that of the data.
        lr: Learning rate behind the warm-up; None keeps that of the optimizer.
        warmup_steps: Optimizer steps over which the rate rises linearly when the stage begins.
    """

    until: int
    frames: int | None = None
    views: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    warmup_steps: int = 0


def check_stages(stages: Sequence[Stage]) -> None:
    """Checks that every stage has steps, and that its numbers are possible.

    Raises:
        ValueError: A stage does not end behind the one before, or a number is out of range; names stage and number.
    """
    begin = 0
    for number, stage in enumerate(stages, 1):
        where = f"stages: stage {number}"
        if stage.until <= begin:
            raise ValueError(f"{where} ends at step {stage.until}, it must end behind step {begin}")
        if not 0 <= stage.warmup_steps < stage.until - begin:
            raise ValueError(
                f"{where} has {stage.until - begin} steps, warmup_steps must be fewer, is {stage.warmup_steps}"
            )
        for name in ("views", "batch_size", "lr"):
            value = getattr(stage, name)
            if value is not None and not value > 0:
                raise ValueError(f"{where}: {name} must be positive, is {value}")
        if stage.frames is not None:
            _check_frames(where, stage.frames)
        begin = stage.until


def _check_frames(where: str, frames: int) -> None:
    try:
        latent_frames(frames)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def accumulated_batches(global_batch: int, ranks: int, batch_size: int) -> int:
    """The number of batches of every rank that make one global batch.

    Args:
        global_batch: Samples of one optimizer step, over all ranks.
        ranks: Number of processes, each with its own batches.
        batch_size: Samples per batch and rank.

    Raises:
        ValueError: The global batch is no multiple of what all ranks load at a time; names the numbers.
    """
    at_once = ranks * batch_size
    if global_batch < 1 or global_batch % at_once:
        raise ValueError(
            f"a global batch of {global_batch} is no multiple of {ranks} ranks x batch_size {batch_size} = {at_once}"
        )
    return global_batch // at_once
