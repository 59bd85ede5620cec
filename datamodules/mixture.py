"""The training mixture: exact shares of several sources, endless, resumable from a few integers a worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

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
        name: For errors and seeds.
        urls: Expanded shard addresses.
        weight: Share, in any unit.
        read: Turns raw members and a random generator into a batch of one.
        shape: Of what `read` makes, whether latents included; only sources of one shape share a batch.
    """

    name: str
    urls: Sequence[str]
    weight: float
    read: Read
    shape: tuple[int, ...] = ()


class Delivery(NamedTuple):
    """What a worker hands over: a batch and where it stands after it, or an error as one line.

    `problems` are what it could not read since the last time.
    """

    worker: int
    batch: SceneBatch | None
    state: dict[str, Any]
    error: str = ""
    problems: Sequence[Problem] = ()


class Bucket(NamedTuple):
    """Sources whose grids have one shape, and their turns."""

    sources: list[int]
    turns: Turns


class MixedBatches(IterableDataset):
    """Endless batches of a mixture.

    After any number of samples each source had its share to at most one sample, on every worker. An unusable
    sample is recorded and replaced by the next of its source.

    Sources of several shapes form buckets: a batch comes from one bucket, and each bucket has its share to at
    most one batch, each source its share of the bucket's samples to at most one sample. The ranks draw from
    the same bucket at the same step, so none waits for another's larger grids.

    A worker's state is `{"draws": samples drawn, "shards": [[position, offset] a source], "unreadable":
    [number of skipped shards and samples a source]}`; all randomness follows from the seed, the worker's number
    and that state.

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
        shapes = list(dict.fromkeys(ingredient.shape for ingredient in ingredients))
        members = [[i for i, item in enumerate(ingredients) if item.shape == shape] for shape in shapes]
        weights = whole_weights([ingredient.weight for ingredient in ingredients])
        self.buckets = [Bucket(found, Turns.of([weights[i] for i in found])) for found in members]
        self.turns = Turns.of([sum(weights[i] for i in found) for found in members])
        self.place(rank=0, ranks=1, batches=0, states=[])

    @property
    def period(self) -> int:
        """Samples a worker draws until all turns repeat."""
        periods = math.lcm(*(len(bucket.turns.order) for bucket in self.buckets))
        return self.batch_size * len(self.turns.order) * periods

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
    """One worker's samples; `start` is its place in the turns of the buckets."""

    def __init__(
        self, mixture: MixedBatches, worker: int, workers: int, state: dict[str, Any] | None, start: int
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
        """The sources of the next batch, all of one bucket."""
        size, turns = self.mixture.batch_size, self.mixture.turns
        batches, rest = divmod(self.count, size)
        number = turns.at(self.start, batches)
        bucket = self.mixture.buckets[number]
        drawn = turns.taken(self.start, batches, number) * size + rest
        return [bucket.sources[bucket.turns.at(self.starts[number], drawn + index)] for index in range(size)]

    def sample(self, source: int) -> SceneBatch:
        """The next usable sample of a source."""
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

    def state(self) -> dict[str, Any]:
        return {
            "draws": self.count,
            "shards": [[stream.position, stream.offset] for stream in self.streams],
            "unreadable": [stream.problems.count for stream in self.streams],
        }

    def news(self) -> list[Problem]:
        """Problems not handed over yet."""
        return [problem for stream in self.streams for problem in stream.problems.take_news()]
