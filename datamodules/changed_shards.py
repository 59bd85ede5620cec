"""Resumes with another list of shards: the places saved in the old list say nothing about the new one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from datamodules.mixture import WorkerState


def fingerprint(urls: Sequence[str]) -> str:
    """Joins the number of shards and a digest of their ordered addresses; both decide the meaning of a place."""
    return f"{len(urls)} {hashlib.sha256(chr(10).join(urls).encode()).hexdigest()[:16]}"


def begin_new_pass(
    states: Sequence[WorkerState | None], source: int, sources: int, saved: str, now: str
) -> list[WorkerState | None]:
    """Puts every worker at the start of a pass of one source that none has begun; the other sources stay.

    Pass e of a list of n shards starts at place e n of the endless list that the workers share (`ShardStream`).

    Args:
        states: States of all workers, rank by rank; None for a worker that had delivered nothing.
        source: Index of the source whose list changed.
        sources: Number of sources.
        saved: Fingerprint of the list to which the states belong.
        now: Fingerprint of the list as it is now.
    """
    workers = len(states)
    last = max(
        state["shards"][source][0] * workers + worker if state else 0 for worker, state in enumerate(states)
    )
    first = (last // _count(saved) + 1) * _count(now)
    made: list[WorkerState | None] = []
    for worker, state in enumerate(states):
        state = state or {"draws": 0, "shards": [[0, 0]] * sources, "unreadable": [0] * sources}
        places = list(state["shards"])
        places[source] = [-(-(first - worker) // workers), 0]
        made.append({**state, "shards": places})
    return made


def _count(mark: str) -> int:
    return int(mark.split()[0])
