"""A training loader that can save its place in the middle of an epoch, on every rank and worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypedDict, TypeVar

import torch.distributed as dist
from torch.utils.data import DataLoader

from datamodules.carry_over import carry_over
from datamodules.changed_shards import begin_new_pass, fingerprint
from datamodules.mixture import MixedBatches, WorkerState
from datamodules.problems import ProblemLog
from scene4d.interruption import spare_worker
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)

ENDLESS = 10**9
Item = TypeVar("Item")


class RankState(TypedDict):
    """The place of one rank: the number of batches taken, and the states of its workers."""

    taken: int
    workers: list[WorkerState | None]


class LoaderState(TypedDict, total=False):
    """The place of all ranks. Old checkpoints lack `sources`, `shard_lists` and `steps`."""

    sources: list[str]
    shard_lists: list[str]
    steps: int
    ranks: list[RankState]


class Part(NamedTuple):
    """A mixture, and how long a rank draws from it.

    Attributes:
        batches: The mixture.
        accumulated: Number of batches of a rank in one optimizer step.
        until: Optimizer step of the run behind which the next mixture follows; None never ends.
    """

    batches: MixedBatches
    accumulated: int = 1
    until: int | None = None


def rank_and_world() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ResumableLoader:
    """Yields endless batches; Lightning saves and restores its state with every checkpoint.

    Every batch comes with the state of the worker that made it, so the saved state is that of the batches
    really taken, however far ahead the workers are. A new iteration goes on after the last batch taken.

    If the number of ranks or workers has changed, the place is carried over (`carry_over`): the shares stay
    exact, no sample of the running pass is seen twice, and a warning counts what is left out of that pass. If the
    sources have changed, all start from the beginning, with a warning. A source whose list of shards has changed
    begins a new pass over the new list, with a warning; the shares and the other sources are not affected.

    A run may draw from several mixtures of the same sources, one after the other. Which one a batch comes from
    follows from its number alone, and the next mixture goes on in the shards where the last one has stopped.

    Args:
        parts: The mixtures, or one that never ends.
        num_workers: Number of worker processes; 0 reads in the main process.
        length: Value of `len()`. Without a length Lightning would fetch one batch ahead of the state that it
            saves, and a resumed run would skip it.
        place: Which reader this process is, counted from 0, and how many different ones there are. None makes every
            rank a reader of its own.
    """

    def __init__(
        self,
        parts: MixedBatches | Sequence[Part],
        num_workers: int,
        length: int = ENDLESS,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.parts = [Part(parts)] if isinstance(parts, MixedBatches) else list(parts)
        self.num_workers, self.length, self._given_place = num_workers, length, place
        self._taken, self._problems = 0, ProblemLog()
        self._states: list[WorkerState | None] = [None] * max(num_workers, 1)

    @property
    def _place(self) -> tuple[int, int]:
        return self._given_place or rank_and_world()

    @property
    def dataset(self) -> MixedBatches:
        """The mixture of the next batch."""
        return self._part()[0].batches

    def batches_before(self, step: int) -> int:
        """Number of batches that a rank takes before an optimizer step."""
        count, begin = 0, 0
        for part in self.parts:
            end = step if part.until is None or part is self.parts[-1] else min(step, part.until)
            count += max(end - begin, 0) * part.accumulated
            begin = max(end, begin)
        return count

    def _part(self) -> tuple[Part, int | None]:
        """Where the next batch comes from, and how many come from there; None if they never end."""
        for part in self.parts[:-1]:
            assert part.until is not None
            if (left := self.batches_before(part.until) - self._taken) > 0:
                return part, left
        return self.parts[-1], None

    def _steps(self) -> int:
        """Number of complete optimizer steps whose batches this rank has taken."""
        part, _ = self._part()
        before = [other for other in self.parts[: self.parts.index(part)]]
        begin = (before[-1].until or 0) if before else 0
        return begin + (self._taken - self.batches_before(begin)) // part.accumulated

    @property
    def unreadable(self) -> dict[str, int]:
        """Number of unusable shards and samples of each source that this rank has skipped, in all passes."""
        counts = [state["unreadable"] for state in self._states if state and "unreadable" in state]
        return dict(zip(self._sources(), (sum(column) for column in zip(*counts))))

    def __len__(self) -> int:
        """Returns `length`."""
        return self.length

    def __iter__(self) -> Iterator[SceneBatch]:
        """Yields batches from the place of the state on.

        Raises:
            ValueError: A source has nothing readable; names it.
        """
        while True:
            part, count = self._part()
            yield from self._draw(part.batches, count)

    def _draw(self, batches: MixedBatches, count: int | None) -> Iterator[SceneBatch]:
        """Yields some batches of one mixture, or endlessly many."""
        rank, world = self._place
        batches.place(rank, world, self._taken, self._states)
        loader = DataLoader(
            batches, batch_size=None, num_workers=self.num_workers, collate_fn=_as_is, worker_init_fn=spare_worker
        )  # fmt: skip
        for delivery in islice(loader, count):
            self._problems.warn(delivery.problems)
            if delivery.batch is None:
                raise ValueError(delivery.error)
            self._taken += 1
            self._states[delivery.worker] = delivery.state
            yield delivery.batch

    def state_dict(self) -> LoaderState:
        """Returns the state of all ranks; it is called on every rank, since Lightning writes that of rank 0."""
        own: RankState = {"taken": self._taken, "workers": list(self._states)}
        rank, world = self._place
        everywhere: list[tuple[int, RankState]] = [(rank, own)]
        if (processes := rank_and_world()[1]) > 1:
            everywhere *= processes
            dist.all_gather_object(everywhere, (rank, own))
        ranks = [dict(everywhere)[reader] for reader in range(world)]  # readers of one place have one state
        places = {"sources": self._sources(), "shard_lists": self._shard_lists(), "steps": self._steps()}
        return {**places, "ranks": ranks}  # type: ignore[typeddict-item]

    def load_state_dict(self, state: LoaderState) -> None:
        """Takes the part of this rank from a saved state."""
        if state.get("sources", self._sources()) != self._sources():
            log.warning(
                "the data state was saved with the sources %s, now they are %s: starting from the beginning",
                state["sources"],
                self._sources(),
            )
            return
        rank, world = self._place
        ranks, workers = state["ranks"], len(self._states)
        places = [place for item in ranks for place in item["workers"]]
        if any(places):
            places = self._with_new_passes(places, state.get("shard_lists", self._shard_lists()), rank)
        if len(ranks) == world and len(ranks[0]["workers"]) == workers:
            self._taken, self._states = ranks[rank]["taken"], places[rank * workers : (rank + 1) * workers]
            if state.get("steps", self._steps()) != self._steps():  # other stages or batches than before
                self._taken = self.batches_before(state["steps"])
            return
        self._taken = self.batches_before(state.get("steps", 0))
        self._carry_over(places, len(ranks), world, rank)

    def _with_new_passes(
        self, places: list[WorkerState | None], saved: list[str], rank: int
    ) -> list[WorkerState | None]:
        """Moves the saved places to a new pass of every source whose list of shards has changed."""
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

    def _carry_over(self, saved: list[WorkerState | None], ranks: int, world: int, rank: int) -> None:
        workers = len(self._states)
        states, lost = carry_over(saved, world * workers, self.dataset.period)
        self._states = states[rank * workers : (rank + 1) * workers]
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


def _as_is(delivery: Item) -> Item:
    return delivery
