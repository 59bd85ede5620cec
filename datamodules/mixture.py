"""The training mixture: exact shares of several sources, endless, resumable from a few integers per worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypedDict

from torch.utils.data import IterableDataset, get_worker_info

from datamodules.archives import Members
from datamodules.collation import collate
from datamodules.problems import Problem, Problems
from datamodules.schedule import Turns, whole_weights
from datamodules.shards import ShardStream
from scene4d.types import SceneBatch

Read = Callable[[Members, Random], SceneBatch]


@dataclass(frozen=True)
class Ingredient:
    """One source of a mixture.

    Attributes:
        name: Name of the source, used in errors and seeds.
        urls: Expanded shard addresses.
        weight: Share in any unit.
        read: Turns raw members and a random generator into a batch of one.
        shape: Shape of the grids that `read` makes, and whether they have latents; only sources of one shape share
            a batch.
    """

    name: str
    urls: Sequence[str]
    weight: float
    read: Read
    shape: tuple[int, ...] = ()


class _Drawn(TypedDict):
    draws: int
    shards: list[list[int]]


class WorkerState(_Drawn, total=False):
    """The place of one worker.

    It holds the number of samples drawn, and for every source `[position, offset]` in its shards and the number of
    skipped shards and samples. Old checkpoints lack `unreadable`.
    """

    unreadable: list[int]


class Delivery(NamedTuple):
    """A worker hands over a batch and its place after it, or an error as one line.

    `problems` names the shards and samples that it could not read since the last delivery.
    """

    worker: int
    batch: SceneBatch | None
    state: WorkerState
    error: str = ""
    problems: Sequence[Problem] = ()


class Bucket(NamedTuple):
    """Sources whose grids have one shape, and their turns."""

    sources: list[int]
    turns: Turns


class MixedBatches(IterableDataset):
    """Yields endless batches of a mixture.

    After any number of samples, the share of each source is exact to at most one sample, on every worker. An
    unusable sample is recorded and replaced by the next one of its source.

    Sources of several shapes form buckets, and a batch comes from one bucket. The share of each bucket is exact to
    at most one batch, and the share of each source within its bucket to at most one sample. The ranks draw from
    the same bucket at the same step, so none waits for the larger grids of another.

    All randomness follows from the seed, the number of the worker, and its `WorkerState`.

    Args:
        ingredients: Sources of the mixture.
        batch_size: Samples per batch.
        seed: Decides everything random.
    """

    def __init__(self, ingredients: Sequence[Ingredient], batch_size: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.ingredients, self.batch_size, self.seed = list(ingredients), batch_size, seed
        shapes = list(dict.fromkeys(ingredient.shape for ingredient in ingredients))
        members = [[i for i, item in enumerate(ingredients) if item.shape == shape] for shape in shapes]
        weights = whole_weights([ingredient.weight for ingredient in ingredients])
        self.buckets = [Bucket(found, Turns.of([weights[i] for i in found])) for found in members]
        self.turns = Turns.of([sum(weights[i] for i in found) for found in members])
        self.place(rank=0, ranks=1, batches=0, states=[])

    @property
    def period(self) -> int:
        """Number of samples that a worker draws until all turns repeat."""
        periods = math.lcm(*(len(bucket.turns.order) for bucket in self.buckets))
        return self.batch_size * len(self.turns.order) * periods

    def place(self, rank: int, ranks: int, batches: int, states: Sequence[WorkerState | None]) -> None:
        """Sets the place from which to go on; it is called in the main process before workers start.

        Args:
            rank: Rank of this process.
            ranks: Number of processes.
            batches: Number of batches that this rank has taken so far.
            states: State of each of its workers, None or absent at the beginning.
        """
        self.rank, self.ranks, self.batches, self.states = rank, ranks, batches, list(states)

    def __iter__(self) -> Iterator[Delivery]:
        """Yields deliveries of this worker, the last one with an error if a source has nothing readable."""
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        worker = (number + self.batches) % count  # the loader's next batch comes from its worker 0
        state = self.states[worker] if worker < len(self.states) else None
        draw = _Draws(
            self, self.rank * count + worker, self.ranks * count, state, self.turns.start(worker, count)
        )
        while True:
            try:
                batch = collate([draw.sample(source) for source in draw.sources()])
            except ValueError as error:
                yield Delivery(worker, None, draw.state(), str(error), draw.news())
                return
            yield Delivery(worker, batch, draw.state(), problems=draw.news())


class _Draws:
    """Draws the samples of one worker; `start` is its place in the turns of the buckets."""

    def __init__(
        self, mixture: MixedBatches, worker: int, workers: int, state: WorkerState | None, start: int
    ) -> None:
        nothing = [0] * len(mixture.ingredients)
        state = state or {"draws": 0, "shards": [[0, 0]] * len(nothing)}
        self.mixture, self.worker, self.start = mixture, worker, start
        self.starts = [bucket.turns.start(worker, workers) for bucket in mixture.buckets]
        self.count = state["draws"]
        self.streams = [
            ShardStream(
                item.name,
                item.urls,
                mixture.seed,
                worker,
                workers,
                Problems(item.name, unreadable),
                position=where[0],
                offset=where[1],
            )
            for item, where, unreadable in zip(
                mixture.ingredients, state["shards"], state.get("unreadable", nothing)
            )
        ]
        self.samples = [iter(stream) for stream in self.streams]

    def sources(self) -> list[int]:
        """Returns the sources of the next batch, all of one bucket."""
        size, turns = self.mixture.batch_size, self.mixture.turns
        batches, rest = divmod(self.count, size)
        number = turns.at(self.start, batches)
        bucket = self.mixture.buckets[number]
        drawn = turns.taken(self.start, batches, number) * size + rest
        return [bucket.sources[bucket.turns.at(self.starts[number], drawn + index)] for index in range(size)]

    def sample(self, source: int) -> SceneBatch:
        """Returns the next usable sample of a source."""
        self.count += 1
        while True:
            members = next(self.samples[source])
            rng = Random(f"{self.mixture.seed}/{self.worker}/{self.count}")
            try:
                scene = self.mixture.ingredients[source].read(members, rng)
            except Exception as error:  # whatever a damaged sample raises, training goes on
                self.streams[source].reject(members, str(error) or type(error).__name__)
                continue
            self.streams[source].accept()
            return scene

    def state(self) -> WorkerState:
        """Returns the place of this worker."""
        return {
            "draws": self.count,
            "shards": [[stream.position, stream.offset] for stream in self.streams],
            "unreadable": [stream.problems.count for stream in self.streams],
        }

    def news(self) -> list[Problem]:
        """Returns the problems that were not handed over yet."""
        return [problem for stream in self.streams for problem in stream.problems.take_news()]
