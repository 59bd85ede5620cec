"""Reading shards: raw samples in a deterministic, resumable shuffle; problems are counted and named."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import webdataset as wds

log = logging.getLogger(__name__)

Members = dict[str, bytes]


class Problems:
    """Counts what could not be read; each shard or sample is named in one warning."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = ""

    def record(self, name: str, message: str) -> None:
        """Counts a problem of a shard or sample and warns the first time."""
        self.last = message
        self.counts[name] += 1
        if self.counts[name] == 1:
            log.warning("skipped %s: %s", name, message)


def expand_urls(source: str, urls: Sequence[str]) -> list[str]:
    """Expands braces and globs; `pipe:` and `http(s):` addresses are passed through.

    Raises:
        ValueError: A path does not exist or a pattern matches nothing; names the source and the path.
    """
    found: list[str] = []
    for pattern in urls:
        for url in wds.SimpleShardList(pattern).urls if "{" in pattern else [pattern]:
            if is_remote(url):
                found.append(url)
                continue
            matches = sorted(glob.glob(url)) if glob.has_magic(url) else [url] * Path(url).is_file()
            if not matches:
                raise ValueError(f"source {source!r}: no shard found at {url!r}")
            found.extend(matches)
    if not found:
        raise ValueError(f"source {source!r} has no shards: urls is empty")
    return found


def is_remote(url: str) -> bool:
    """Whether an address is a pipe or has a scheme, so that it cannot be looked up on disk."""
    return url.startswith("pipe:") or "://" in url


def read_shard(url: str, problems: Problems | None = None) -> Iterator[Members]:
    """Yields the raw samples of a shard, nothing decoded.

    Args:
        url: Path or address.
        problems: Where to record a problem before going on; None: raise instead.

    Raises:
        ValueError: The shard cannot be read and `problems` is None; names the shard.
    """

    def handle(error: Exception) -> bool:
        # The first argument is the message; webdataset appends its own file objects to the others.
        message = str(error.args[0]) if error.args else type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            message = error.strerror
        if problems is None:
            raise ValueError(f"shard {url!r} cannot be read: {message}") from error
        problems.record(url, f"{type(error).__name__}: {message}")
        return True

    dataset = wds.WebDataset(
        [url], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False, handler=handle
    )
    if _is_cut_off(url):
        handle(EOFError("the archive is cut off, it has no end marker"))
    empty = True
    for sample in dataset:
        empty = False
        yield sample
    if empty:
        handle(EOFError("no samples in the shard"))


def _is_cut_off(url: str) -> bool:
    """Whether a local tar lacks its two closing zero blocks; tarfile takes some cuts for the end."""
    path = Path(url)
    if is_remote(url) or path.suffix != ".tar" or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 1024, 0))
        return file.read() != bytes(1024)


class ShardStream:
    """Endless samples of one source for one worker.

    Epoch after epoch the shards are shuffled and dealt in turn to all workers of all ranks, so any number
    of shards serves any number of workers. Inside a shard, blocks of `block` samples are shuffled.

    Args:
        name: Source name, for the seed and for errors.
        urls: Shards.
        seed: Decides all orders.
        worker: Which of the `workers` this is, over all ranks.
        workers: Number of workers over all ranks.
        problems: Where unreadable shards are recorded.
        block: Samples held in memory, raw, for shuffling.
        position: Shards this worker finished (where to resume).
        offset: Samples already taken from the current shard (where to resume).
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
        self._good, self._fruitless = 0, set[str]()

    def accept(self) -> None:
        """Tells the stream that the sample it gave last could be used."""
        self._good += 1

    def __iter__(self) -> Iterator[Members]:
        """Yields samples for ever.

        Raises:
            ValueError: No shard of the source holds a usable sample; names the source.
        """
        while True:
            url, epoch = self._current_shard()
            before, from_start = self._good, self.offset == 0
            yield from self._samples(url, epoch)
            self.position, self.offset = self.position + 1, 0
            if self._good > before:
                self._fruitless.clear()
            elif from_start:  # else a resumed run had used the shard's samples before
                self._fruitless.add(url)
            if len(self._fruitless) == len(set(self.urls)):
                raise ValueError(
                    f"source {self.name!r}: no readable sample in any of its {len(self.urls)} shards; "
                    f"last problem: {self.problems.last}"
                )

    def _current_shard(self) -> tuple[str, int]:
        epoch, index = divmod(self.position * self.workers + self.worker, len(self.urls))
        order = list(range(len(self.urls)))
        Random(f"{self.seed}/{self.name}/{epoch}").shuffle(order)
        return self.urls[order[index]], epoch

    def _samples(self, url: str, epoch: int) -> Iterator[Members]:
        for number, block in enumerate(_blocks(read_shard(url, self.problems), self.block)):
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
