"""What a stage of the training changes about its sources."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from random import Random

from datamodules.mixture import Ingredient, MixedBatches
from datamodules.problems import Problems
from datamodules.selection import GridSelection
from datamodules.shards import read_shard
from datamodules.sources import Source
from scene4d.stages import Stage

LOOKED_AT = 16  # samples of a source; the others of a real set are as long


def staged(source: Source, stage: Stage | None) -> Source:
    """The source with the views and frames of a stage.

    Raises:
        ValueError: The stage has its own, and the source's selection takes no regular grid; names the source.
    """
    if stage is None or (stage.views is None and stage.frames is None):
        return source
    if not isinstance(source.selection, GridSelection):
        kind = type(source.selection).__name__
        raise ValueError(
            f"source {source.name!r}: stages change views and frames of a GridSelection, selection is a {kind}"
        )
    return replace(source, selection=source.selection.resized(stage.views, stage.frames))


def check_readable(batches: MixedBatches, where: str) -> None:
    """Looks at the first samples of every source, so that a later stage does not fail after days.

    Raises:
        ValueError: None of them makes a grid of this stage; names the stage, the source, and why.
    """
    for ingredient in batches.ingredients:
        reason = _why_unreadable(ingredient)
        if reason is not None:
            raise ValueError(
                f"{where}: none of the first samples of source {ingredient.name!r} can be used, the last one because "
                f"{reason}"
            )


def _why_unreadable(ingredient: Ingredient) -> str | None:
    """Why none of the first samples can be read; None if one can, or if there is none to look at."""
    reason = None
    broken = Problems(ingredient.name, 0)  # training tells of damaged shards when it meets them
    for members in islice(read_shard(ingredient.urls[0], broken), LOOKED_AT):
        try:
            ingredient.read(members, Random(0))
        except Exception as error:  # whatever a damaged sample raises
            reason = str(error) or type(error).__name__
            continue
        return None
    return reason
