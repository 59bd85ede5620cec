"""Dividing a preparation into shards, parts of a job array and processes."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Result = TypeVar("Result")
LOG_FORMAT = "%(asctime)s %(name)s: %(message)s"


def parse_part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n), 0 <= i < n; for argparse. Under SLURM: `--part $SLURM_ARRAY_TASK_ID/$count`."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"part must be i/n with 0 <= i < n, got {text!r}")
    return int(index), int(count)


def plan_shards(scenes: int, shard_size: int, part: tuple[int, int] = (0, 1)) -> list[tuple[int, range]]:
    """Shard indices and their scenes; part (i, n) gets every n-th shard, beginning with shard i."""
    starts = range(0, scenes, shard_size)
    shards = [(index, range(start, min(start + shard_size, scenes))) for index, start in enumerate(starts)]
    return shards[part[0] :: part[1]]


def run_jobs(make: Callable[..., Result], jobs: Sequence[tuple], workers: int) -> Iterator[Result]:
    """Yields `make(*job)` of every job: one after another, or as they finish in a pool of fresh processes."""
    if workers <= 1:
        yield from (make(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_logging) as pool:
        for future in as_completed([pool.submit(make, *job) for job in jobs]):
            yield future.result()


def start_logging() -> None:
    """Log lines of a command or of one of its processes."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
