"""A training loader whose place can be saved in the middle of an epoch, on every rank and worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader

from datamodules.mixture import MixedBatches
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)

ENDLESS = 10**9


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ResumableLoader:
    """Endless batches; Lightning saves and restores its state with every checkpoint.

    Every batch comes with the state of the worker that made it, so the saved state is that of the batches
    really taken, whatever workers have prepared ahead. A new iteration goes on after the last batch taken.

    With another number of ranks or workers than saved, the place is carried over only approximately, with a
    warning: each worker goes on after the mean progress of the old ones. With other sources, they start from
    the beginning, with a warning.

    Args:
        batches: The mixture.
        num_workers: Worker processes, 0 to read in the main process.
        length: What `len()` says. Without a length Lightning would fetch one batch ahead of the state that it
            saves, and a resumed run would skip it.
    """

    def __init__(self, batches: MixedBatches, num_workers: int, length: int = ENDLESS) -> None:
        self.dataset, self.num_workers, self.length = batches, num_workers, length
        self._taken = 0
        self._states: list[dict[str, Any] | None] = [None] * max(num_workers, 1)

    @property
    def skipped(self) -> int:
        """How many unreadable shards and samples this rank's workers have met."""
        return sum(state["skipped"] for state in self._states if state)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[SceneBatch]:
        """Yields batches from where the state stands.

        Raises:
            ValueError: A source has nothing readable; names it.
        """
        rank, world = rank_and_world()
        self.dataset.place(rank, world, self._taken, self._states)
        loader = DataLoader(self.dataset, batch_size=None, num_workers=self.num_workers, collate_fn=_as_is)
        for delivery in loader:
            if delivery.batch is None:
                raise ValueError(delivery.error)
            self._taken += 1
            self._states[delivery.worker] = delivery.state
            yield delivery.batch

    def state_dict(self) -> dict[str, Any]:
        """The state of all ranks; called on every rank, since Lightning writes that of rank 0."""
        own = {"taken": self._taken, "workers": list(self._states)}
        _, world = rank_and_world()
        ranks: list[dict[str, Any]] = [own] * world
        if world > 1:
            dist.all_gather_object(ranks, own)
        return {"sources": self._sources(), "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes this rank's part of a saved state."""
        if state.get("sources", self._sources()) != self._sources():
            log.warning(
                "the data state was saved with the sources %s, now they are %s: starting from the beginning",
                state["sources"],
                self._sources(),
            )
            return
        rank, world = rank_and_world()
        ranks, workers = state["ranks"], len(self._states)
        if len(ranks) == world and len(ranks[0]["workers"]) == workers:
            self._taken, self._states = ranks[rank]["taken"], list(ranks[rank]["workers"])
            return
        log.warning(
            "the data state was saved by %d ranks x %d workers, now there are %d x %d: its place is carried "
            "over approximately",
            len(ranks),
            len(ranks[0]["workers"]),
            world,
            workers,
        )
        mean = _mean_state(
            [worker for item in ranks for worker in item["workers"] if worker], world * workers
        )
        self._taken, self._states = 0, [mean] * workers

    def _sources(self) -> list[str]:
        return [ingredient.name for ingredient in self.dataset.ingredients]


def _mean_state(states: list[dict[str, Any]], workers: int) -> dict[str, Any] | None:
    """Spreads the progress of all old workers over the new ones, up to a shard each."""
    if not states:
        return None
    shards = []
    for places in zip(*(state["shards"] for state in states)):
        begun = sum(position + (offset > 0) for position, offset in places)
        shards.append([-(-begun // workers), 0])
    return {"draws": sum(state["draws"] for state in states) // workers, "shards": shards, "skipped": 0}


def _as_is(delivery: Any) -> Any:
    return delivery
