"""The training mixture: exact shares of several sources, endless, resumable from a few integers a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from datamodules.collation import collate
from datamodules.schedule import deal, fair_starts, whole_weights
from datamodules.shards import Members, Problems, ShardStream
from scene4d.types import SceneBatch

Read = Callable[[Members, Random], SceneBatch]


@dataclass(frozen=True)
class Ingredient:
    """One source of a mixture.

    Attributes:
        name: For errors and seeds.
        urls: Expanded shard addresses.
        weight: Share, in any unit.
        read: Turns raw members and a random generator into a batch of one.
    """

    name: str
    urls: Sequence[str]
    weight: float
    read: Read


class Delivery(NamedTuple):
    """What a worker hands over: a batch and where it stands after it, or an error as one line."""

    worker: int
    batch: SceneBatch | None
    state: dict[str, Any]
    error: str = ""


class MixedBatches(IterableDataset):
    """Endless batches of a mixture.

    After any number of samples each source had its share to at most one sample, on every worker. An unusable
    sample is recorded and replaced by the next of its source.

    A worker's state is `{"draws": samples drawn, "shards": [[position, offset] a source], "skipped": n}`; all
    randomness follows from the seed, the worker's number and that state.

    Args:
        ingredients: Sources.
        batch_size: Samples a batch.
        seed: Decides everything random.
    """

    def __init__(self, ingredients: Sequence[Ingredient], batch_size: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.ingredients, self.batch_size, self.seed = list(ingredients), batch_size, seed
        weights = whole_weights([ingredient.weight for ingredient in ingredients])
        self.turns = deal(weights)
        self.starts = fair_starts(weights, self.turns)
        self.place(rank=0, ranks=1, batches=0, states=[])

    def place(self, rank: int, ranks: int, batches: int, states: Sequence[dict[str, Any] | None]) -> None:
        """Says where to go on; called in the main process before workers start.

        Args:
            rank: This process.
            ranks: All processes.
            batches: Batches this rank has taken so far.
            states: The state of each of its workers, None or absent at the beginning.
        """
        self.rank, self.ranks, self.batches, self.states = rank, ranks, batches, list(states)

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        worker = (number + self.batches) % count  # the loader's next batch comes from its worker 0
        state = self.states[worker] if worker < len(self.states) else None
        draw = _Draws(self, self.rank * count + worker, self.ranks * count, state)
        while True:
            try:
                batch = collate([draw.next() for _ in range(self.batch_size)])
            except ValueError as error:
                yield Delivery(worker, None, draw.state(), str(error))
                return
            yield Delivery(worker, batch, draw.state())


class _Draws:
    """One worker's samples."""

    def __init__(
        self, mixture: MixedBatches, worker: int, workers: int, state: dict[str, Any] | None
    ) -> None:
        state = state or {"draws": 0, "shards": [[0, 0]] * len(mixture.ingredients), "skipped": 0}
        self.mixture, self.worker = mixture, worker
        self.start = mixture.starts[worker * len(mixture.starts) // workers % len(mixture.starts)]
        self.count, self.skipped, self.problems = state["draws"], state["skipped"], Problems()
        self.streams = [
            ShardStream(
                item.name,
                item.urls,
                mixture.seed,
                worker,
                workers,
                self.problems,
                position=where[0],
                offset=where[1],
            )
            for item, where in zip(mixture.ingredients, state["shards"])
        ]
        self.samples = [iter(stream) for stream in self.streams]

    def next(self) -> SceneBatch:
        turns = self.mixture.turns
        source = turns[(self.start + self.count) % len(turns)]
        self.count += 1
        while True:
            members = next(self.samples[source])
            rng = Random(f"{self.mixture.seed}/{self.worker}/{self.count}")
            try:
                scene = self.mixture.ingredients[source].read(members, rng)
            except Exception as error:  # whatever a damaged sample raises, training goes on
                url, key = members.get("__url__", "?"), members.get("__key__", "?")
                self.problems.record(f"sample {key!r} of {url}", str(error) or type(error).__name__)
                continue
            self.streams[source].accept()
            return scene

    def state(self) -> dict[str, Any]:
        return {
            "draws": self.count,
            "shards": [[stream.position, stream.offset] for stream in self.streams],
            "skipped": self.skipped + sum(self.problems.counts.values()),
        }
