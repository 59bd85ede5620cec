"""Reads held-out scenes for validation, test and prediction: finite, in fixed order, the same at every run."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.archives import Members, is_remote
from datamodules.collation import collate
from datamodules.loader import rank_and_world
from datamodules.mixture import Read
from datamodules.shards import read_shard
from scene4d.interruption import spare_worker
from scene4d.types import SceneBatch

Batch = TypeVar("Batch")


class HeldOutBatches(IterableDataset):
    """Yields all samples of one source in the order of its shards.

    Rank r of n takes samples r, r + n, ...; ranks that would come out one short repeat their last sample (the
    last of all, if they have none), since collective operations need the same number of batches on every
    rank. Random choices of a sample depend only on the seed and its key. Held-out data must be whole: an
    unreadable sample or shard raises an error, because scores over the readable rest do not compare.

    Args:
        name: Name of the source.
        urls: Expanded shard addresses.
        read: Turns raw members into a batch of one.
        batch_size: Samples per batch; the last batch may be smaller.
        seed: Seed of the random choices.
        most: Number of samples after which it ends; None takes all.
    """

    def __init__(
        self, name: str, urls: Sequence[str], read: Read, batch_size: int, seed: int, most: int | None = None
    ) -> None:
        super().__init__()
        self.name, self.urls, self.read = name, list(urls), read
        self.batch_size, self.seed, self.most = batch_size, seed, most
        self.rank, self.ranks = 0, 1

    def __iter__(self) -> Iterator[SceneBatch | str]:
        """Yields the batches of this worker, or an error as one line."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            for number, batch in enumerate(self._batches()):
                if number % workers == worker:
                    yield collate([self._scene(members) for members in batch])
        except ValueError as error:
            yield str(error)

    def _scene(self, members: Members) -> SceneBatch:
        """Reads a sample; whatever a damaged one raises, its name is said."""
        key = str(members["__key__"])
        try:
            return self.read(members, Random(f"{self.seed}/{self.name}/{key}"))
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            place = "" if repr(key) in said else f"sample {key!r}: "
            raise ValueError(f"source {self.name!r}: {place}{said}") from error

    def _batches(self) -> Iterator[list[Members]]:
        batch: list[Members] = []
        for members in self._own():
            batch.append(members)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _own(self) -> Iterator[Members]:
        count, repeated = 0, Members()
        samples, keys = (sample for url in self.urls for sample in read_shard(url)), set[str]()
        for members in islice(samples, self.most):
            key = str(members["__key__"])
            if key in keys:
                raise ValueError(
                    f"source {self.name!r} holds two samples with the key {key!r}; keys must be unique"
                )
            keys.add(key)
            if count % self.ranks == self.rank:
                yield members
            if count % self.ranks == self.rank or count < self.rank:
                repeated = members
            count += 1
        if 0 < count % self.ranks <= self.rank:
            yield repeated


class HeldOutLoader:
    """Iterates over `HeldOutBatches`, with worker processes if wanted.

    Its length is known when all shards are local files.

    Args:
        batches: What is read.
        num_workers: Number of worker processes; 0 reads in the main process.
        place: Which reader this process is, counted from 0, and how many different ones there are. None makes every
            rank a reader of its own.
    """

    def __init__(
        self, batches: HeldOutBatches, num_workers: int, place: tuple[int, int] | None = None
    ) -> None:
        self.dataset, self.num_workers, self._place = batches, num_workers, place
        self._count: int | None = None

    def __len__(self) -> int:
        """Returns the number of batches of this rank.

        Raises:
            TypeError: A shard is not a local file, so the length is unknown.
        """
        if self._count is None:
            if any(is_remote(url) for url in self.dataset.urls):
                raise TypeError(f"the number of samples of source {self.dataset.name!r} is unknown")
            count = sum(_count(url) for url in self.dataset.urls)
            self._count = count if self.dataset.most is None else min(count, self.dataset.most)
        own = -(-self._count // (self._place or rank_and_world())[1])
        return -(-own // self.dataset.batch_size)

    def __iter__(self) -> Iterator[SceneBatch]:
        """Yields all batches.

        Raises:
            ValueError: A sample or shard cannot be read; names it.
        """
        self.dataset.rank, self.dataset.ranks = self._place or rank_and_world()
        batches = DataLoader(
            self.dataset, batch_size=None, num_workers=self.num_workers, collate_fn=_as_is, worker_init_fn=spare_worker
        )  # fmt: skip
        yield from map(
            _or_raise, batches
        )  # a loop's variable would keep the last batch until the next validation


def _or_raise(batch: SceneBatch | str) -> SceneBatch:
    """Raises the ValueError that a worker has put into words."""
    if isinstance(batch, str):
        raise ValueError(batch)
    return batch


def _count(url: str) -> int:
    """Counts the samples of a local shard by its headers."""
    try:
        with tarfile.open(url, "r:") as tar:
            return sum(name.endswith(".meta.json") for name in tar.getnames())
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"shard {url!r} cannot be read: {error}") from error


def _as_is(batch: Batch) -> Batch:
    return batch
