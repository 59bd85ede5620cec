"""Carries the place in the data over to another number of ranks or workers: nothing is seen twice in a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datamodules.mixture import WorkerState


class LeftOut(NamedTuple):
    """The part of a source's running pass that is lost by carrying its place over."""

    begun: int
    """Shards of which some samples were taken; their other samples are left out."""
    untouched: int
    """Shards left out whole, because workers had not come equally far."""


def carry_over(
    states: Sequence[WorkerState | None], workers: int, period: int
) -> tuple[list[WorkerState | None], list[LeftOut]]:
    """Turns the states of all old workers into those of the new ones.

    Worker w of n takes the shards w, n + w, 2n + w, ... of an endless list (`ShardStream`). The new workers go
    on behind the last shard that any old one began. So no sample of the running pass comes again, the shares
    start exact, and everything left out is counted.

    Args:
        states: States of all old workers, rank by rank; None for a worker that had delivered nothing.
        workers: New number of workers over all ranks.
        period: Number of samples after which the turns of the sources repeat.

    Returns:
        States of the new workers, and the loss of every source's running pass.
    """
    known = [state for state in states if state]
    if not known:
        return [None] * workers, []
    positions, lost = [], []
    for source in range(len(known[0]["shards"])):
        places = [state["shards"][source] if state else [0, 0] for state in states]
        first_fresh, left_out = _fresh(places)
        positions.append(first_fresh)
        lost.append(left_out)
    draws = -(-max(state["draws"] for state in known) // period) * period
    unreadable = [sum(column) for column in zip(*(state.get("unreadable", []) for state in known))]
    made: list[WorkerState | None] = [
        {
            "draws": draws,
            "shards": [[-(-(position - worker) // workers), 0] for position in positions],
            "unreadable": unreadable if worker == 0 else [0] * len(positions),
        }
        for worker in range(workers)
    ]
    return made, lost


def _fresh(places: Sequence[Sequence[int]]) -> tuple[int, LeftOut]:
    """Finds the first place of the endless list that no worker began, and counts the unread shards before it.

    Args:
        places: [shards finished, samples taken from the next one] of every worker.
    """
    count = len(places)
    begun = [position + (offset > 0) for position, offset in places]
    fresh = max(0, *((number - 1) * count + worker + 1 for worker, number in enumerate(begun)))
    untouched = sum(-(-(fresh - worker) // count) - number for worker, number in enumerate(begun))
    return fresh, LeftOut(sum(offset > 0 for _, offset in places), untouched)
