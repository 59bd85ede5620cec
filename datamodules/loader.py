"""A training loader whose place can be saved in the middle of an epoch, on every rank and worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader

from datamodules.carry_over import carry_over
from datamodules.changed_shards import begin_new_pass, fingerprint
from datamodules.mixture import MixedBatches
from datamodules.problems import ProblemLog
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

    With another number of ranks or workers than saved, the place is carried over (`carry_over`): the shares stay
    exact, no sample of the running pass is seen twice, and a warning says what is left out of that pass. With
    other sources, they start from the beginning, with a warning. A source whose list of shards has changed begins
    a new pass over the new list, with a warning; the shares and the other sources go on as if nothing had happened.

    Args:
        batches: The mixture.
        num_workers: Worker processes, 0 to read in the main process.
        length: What `len()` says. Without a length Lightning would fetch one batch ahead of the state that it
            saves, and a resumed run would skip it.
    """

    def __init__(self, batches: MixedBatches, num_workers: int, length: int = ENDLESS) -> None:
        self.dataset, self.num_workers, self.length = batches, num_workers, length
        self._taken, self._problems = 0, ProblemLog()
        self._states: list[dict[str, Any] | None] = [None] * max(num_workers, 1)

    @property
    def unreadable(self) -> dict[str, int]:
        """How many unusable shards and samples of each source this rank has skipped, in all passes."""
        counts = [state["unreadable"] for state in self._states if state and "unreadable" in state]
        return dict(zip(self._sources(), (sum(column) for column in zip(*counts))))

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
            self._problems.warn(delivery.problems)
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
        return {"sources": self._sources(), "shard_lists": self._shard_lists(), "ranks": ranks}

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
        places = [place for item in ranks for place in item["workers"]]
        if any(places):
            places = self._with_new_passes(places, state.get("shard_lists", self._shard_lists()), rank)
        if len(ranks) == world and len(ranks[0]["workers"]) == workers:
            self._taken, self._states = ranks[rank]["taken"], places[rank * workers : (rank + 1) * workers]
            return
        self._carry_over(places, len(ranks), world, rank)

    def _with_new_passes(
        self, places: list[dict[str, Any] | None], saved: list[str], rank: int
    ) -> list[dict[str, Any] | None]:
        """The saved places, at a new pass of every source whose list of shards has changed."""
        for number, (name, before, now) in enumerate(zip(self._sources(), saved, self._shard_lists())):
            if before == now:
                continue
            places = begin_new_pass(places, number, len(saved), before, now)
            if rank == 0:
                log.warning(
                    "source %r has another list of shards than when the data state was saved (%s, before %s): "
                    "it begins a new pass over all of them",
                    name,
                    now,
                    before,
                )
        return places

    def _carry_over(self, saved: list[dict[str, Any] | None], ranks: int, world: int, rank: int) -> None:
        workers = len(self._states)
        states, lost = carry_over(saved, world * workers, self.dataset.period)
        self._taken, self._states = 0, states[rank * workers : (rank + 1) * workers]
        parts = [
            f"{name}: the rest of {part.begun} begun shards and {part.untouched} whole shards"
            for name, part in zip(self._sources(), lost)
        ]
        log.warning(
            "the data state was saved by %d ranks x %d workers, now there are %d x %d: the shares stay exact, no "
            "sample of the running pass is seen twice, left out of it are at most: %s",
            ranks,
            len(saved) // ranks,
            world,
            workers,
            "; ".join(parts) or "nothing",
        )

    def _shard_lists(self) -> list[str]:
        return [fingerprint(ingredient.urls) for ingredient in self.dataset.ingredients]

    def _sources(self) -> list[str]:
        return [ingredient.name for ingredient in self.dataset.ingredients]


def _as_is(delivery: Any) -> Any:
    return delivery
