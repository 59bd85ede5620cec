"""Reads endless raw samples of one source in a deterministic, resumable shuffle, and leaves damaged ones out."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import webdataset as wds

from datamodules.archives import Members, check_scheme, is_remote, read_archive
from datamodules.problems import Problems

PATIENCE_SECONDS = 25.0  # without a usable sample; the last time-out included less than a minute
MANY_SHARDS, MANY_SAMPLES = 3, 100  # a source with so many unusable in turn, for so long, is not readable


def expand_urls(source: str, urls: Sequence[str]) -> list[str]:
    """Expands braces and globs; remote addresses are passed through.

    A missing path stays in the list as long as another path exists: it is then a problem like any unreadable shard.

    Raises:
        ValueError: Nothing is found at all, a pattern matches nothing, or an address cannot be opened for its scheme;
            names the source and the path.
    """
    found: list[str] = []
    missing: list[str] = []
    for pattern in urls:
        for url in wds.SimpleShardList(pattern).urls if "{" in pattern else [pattern]:
            matches = sorted(glob.glob(url)) if glob.has_magic(url) and not is_remote(url) else [url]
            if not matches:
                raise ValueError(f"source {source!r}: no shard found at {url!r}")
            _check_schemes(source, matches)
            missing += [path for path in matches if not is_remote(path) and not Path(path).is_file()]
            found += matches
    if not found:
        raise ValueError(f"source {source!r} has no shards: urls is empty")
    if len(missing) == len(found):
        raise ValueError(f"source {source!r}: no shard found at {missing[0]!r}")
    return found


def _check_schemes(source: str, urls: Sequence[str]) -> None:
    for url in urls:
        try:
            check_scheme(url)
        except ValueError as error:
            raise ValueError(f"source {source!r}: {error}") from error


def read_shard(url: str, problems: Problems | None = None, retry: bool = True) -> Iterator[Members]:
    """Yields the raw samples of a shard, nothing decoded.

    Args:
        url: Path or address.
        problems: Records a problem before going on; None raises an error instead.
        retry: Whether a failing remote shard is tried more than once.

    Raises:
        ValueError: The shard cannot be read and `problems` is None; names the shard.
    """
    count = 0
    try:
        for sample in read_archive(url, retry):
            count += 1
            yield sample
        if count == 0:
            raise EOFError("no samples in the shard")
    except Exception as error:  # networks, file systems and archives raise many types
        if problems is None:
            raise ValueError(f"shard {url!r} cannot be read: {_reason(error)}") from error
        problems.record(f"shard {url}", f"{type(error).__name__}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


class ShardStream:
    """Yields endless samples of one source for one worker.

    Epoch after epoch the shards are shuffled and dealt in turn to all workers of all ranks, so any number
    of shards serves any number of workers. Inside a shard, blocks of `block` samples are shuffled.

    Args:
        name: Name of the source, used in seeds and errors.
        urls: Paths or addresses of the shards.
        seed: Decides all orders.
        worker: Number of this worker over all ranks, from 0.
        workers: Number of workers over all ranks.
        problems: Records unreadable shards and samples.
        block: Number of raw samples held in memory for shuffling.
        position: Number of shards that this worker has finished; it resumes there.
        offset: Number of samples already taken from the current shard; it resumes there.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        seed: int,
        worker: int,
        workers: int,
        problems: Problems,
        block: int = 256,
        position: int = 0,
        offset: int = 0,
    ) -> None:
        self.name, self.urls, self.seed = name, list(urls), seed
        self.worker, self.workers, self.problems, self.block = worker, workers, problems, block
        self.position, self.offset = position, offset
        self._good, self._rejected, self._fruitless = 0, 0, set[str]()
        self._waiting_since: float | None = None

    def accept(self) -> None:
        """Tells the stream that its last sample could be used."""
        self._good, self._rejected, self._waiting_since = self._good + 1, 0, None
        self._fruitless.clear()

    def reject(self, sample: Members, message: str) -> None:
        """Tells the stream that its last sample could not be used, and why.

        Raises:
            ValueError: Too many samples could not be used for too long; names the source.
        """
        name = f"sample {str(sample.get('__key__', '?'))!r} of {str(sample.get('__url__', '?'))}"
        self.problems.record(name, message)
        self._rejected += 1
        if self._waited() > PATIENCE_SECONDS and self._rejected >= MANY_SAMPLES:
            raise self._nothing_readable()

    def __iter__(self) -> Iterator[Members]:
        """Yields samples for ever.

        Raises:
            ValueError: No shard of the source holds a usable sample; names the source.
        """
        while True:
            url, epoch = self._current_shard()
            before, from_start = self._good, self.offset == 0
            self._waited()
            yield from self._samples(url, epoch)
            self.position, self.offset = self.position + 1, 0
            if self._good == before and from_start:  # a resumed run may have used the samples before
                self._fruitless.add(url)
                self._give_up_in_time()

    def _waited(self) -> float:
        """Returns the seconds since it was first called after a usable sample."""
        self._waiting_since = self._waiting_since or time.monotonic()
        return time.monotonic() - self._waiting_since

    def _give_up_in_time(self) -> None:
        """Raises an error if the source seems lost: local shards after one pass, remote ones after some time."""
        everything = len(self._fruitless) == len(set(self.urls))
        if everything and not any(is_remote(url) for url in self.urls):
            raise self._nothing_readable()
        if self._waited() > PATIENCE_SECONDS and (everything or len(self._fruitless) >= MANY_SHARDS):
            raise self._nothing_readable()

    def _nothing_readable(self) -> ValueError:
        return ValueError(
            f"source {self.name!r}: no readable sample in {len(self._fruitless) or 1} of its "
            f"{len(self.urls)} shards in turn; last problem: {self.problems.last}"
        )

    def _current_shard(self) -> tuple[str, int]:
        epoch, index = divmod(self.position * self.workers + self.worker, len(self.urls))
        order = list(range(len(self.urls)))
        Random(f"{self.seed}/{self.name}/{epoch}").shuffle(order)
        return self.urls[order[index]], epoch

    def _samples(self, url: str, epoch: int) -> Iterator[Members]:
        retry = self._waited() < PATIENCE_SECONDS
        for number, block in enumerate(_blocks(read_shard(url, self.problems, retry), self.block)):
            start = number * self.block
            if self.offset >= start + len(block):
                continue
            Random(f"{self.seed}/{self.name}/{epoch}/{url}/{number}").shuffle(block)
            for index in range(self.offset - start, len(block)):
                self.offset = start + index + 1
                yield block[index]


def _blocks(samples: Iterator[Members], size: int) -> Iterator[list[Members]]:
    block: list[Members] = []
    for sample in samples:
        block.append(sample)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
