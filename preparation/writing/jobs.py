"""All preparation commands share this: their options, and the loop over shards, parts of a job array and processes."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from datamodules.archives import Members
from preparation.writing.captions import embed_captions
from preparation.writing.reports import Job, Report, is_finished, skip, summarise, write_reported
from preparation.writing.shards import shard_path
from scene4d.sample_format import SceneSample, encode_sample

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Scene = TypeVar("Scene")
SceneIn = TypeVar("SceneIn", contravariant=True)
JobT = TypeVar("JobT", bound=Job)
LOG_FORMAT = "%(asctime)s %(name)s: %(message)s"


@dataclass(frozen=True)
class SkippedScene:
    """A scene inside a larger one, or a drawing of a scene, that could not be used."""

    name: str
    reason: str


class Source(Protocol[SceneIn]):
    """Gives samples scene by scene, in whatever process and order."""

    def options(self) -> dict[str, object]:
        """Everything that decides the samples, except the names of the scenes."""

    def name(self, scene: SceneIn) -> str:
        """The unique name by which reports call a scene."""

    def read(self, scene: SceneIn) -> Iterator[SceneSample | SkippedScene]:
        """Yields the samples of a scene and whatever part of it cannot be used; it may raise anything.

        Captions need not be embedded yet.
        """


@dataclass(frozen=True)
class SceneShard(Generic[Scene]):
    """All that a process needs to write one shard.

    Attributes:
        path: Path of the shard.
        source: Reads the scenes.
        scenes: The scenes of the shard, in order.
        embed: Whether captions are embedded.
        crf: H.264 constant rate factor.
    """

    path: Path
    source: Source[Scene]
    scenes: Sequence[Scene]
    embed: bool
    crf: int

    def recipe(self) -> dict[str, object]:
        """Everything that decides the content of the shard, as JSON would give it back."""
        names = "\n".join(self.source.name(scene) for scene in self.scenes)
        return {
            "options": json.loads(json.dumps(self.source.options())), "scenes": len(self.scenes),
            "names": zlib.crc32(names.encode()), "embed": self.embed, "crf": self.crf,
        }  # fmt: skip


def add_options(
    parser: argparse.ArgumentParser,
    splits: Sequence[str] = ("train", "val"),
    shard_size: int = 100,
    unit: str = "scenes",
    crf: int = 12,
) -> None:
    """Adds the options of every command.

    Args:
        parser: Gets the options.
        splits: The values that `--split` takes; the first is the default.
        shard_size: Default of `--shard-size`.
        unit: The things that `--shard-size` counts.
        crf: Default of `--crf`.
    """
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the shards and of reports/")
    add("--split", choices=splits, default=splits[0], help="names the shards (%(default)s)")
    add(
        "--shard-size", type=positive, default=shard_size, help=f"number of {unit} in one shard (%(default)s)"
    )
    add("--workers", type=positive, default=1, help="number of processes; each writes one shard at a time")
    add(
        "--part",
        type=parse_part,
        default=(0, 1),
        help="i/n: make only every n-th shard, starting with shard i",
    )
    add("--text", action=argparse.BooleanOptionalAction, default=True, help="embed the captions")
    add("--crf", type=int, default=crf, help="H.264 rate factor, 0 (lossless) to 51 (%(default)s)")


def positive(text: str) -> int:
    """`3` -> 3; for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def parse_part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n), 0 <= i < n; for argparse. Under SLURM: `--part $SLURM_ARRAY_TASK_ID/$count`."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"part must be i/n with 0 <= i < n, got {text!r}")
    return int(index), int(count)


def make_shard(shard: SceneShard[Scene]) -> Report:
    """Writes one shard and its report and returns the report."""
    skipped = dict[str, str]()
    return write_reported(shard, encoded(shard, skipped), skipped)


def encoded(shard: SceneShard[Scene], skipped: dict[str, str]) -> Iterator[Members]:
    """Yields all samples that can be made; the others are named in `skipped` and in the log."""
    for scene in shard.scenes:
        name = shard.source.name(scene)
        try:
            for sample in shard.source.read(scene):
                if isinstance(sample, SkippedScene):
                    skip(skipped, f"{name}: {sample.name}", sample.reason)
                    continue
                if shard.embed and sample.text is None:
                    texts, encoder = embed_captions([sample.caption])
                    sample = replace(sample, text=texts[0], text_encoder=encoder)
                yield encode_sample(sample, shard.crf)
        except (ImportError, MemoryError):  # no fault of the scene
            raise
        except Exception as error:  # whatever is wrong with one scene, the others go on
            skip(skipped, name, error)


def run(
    name: str,
    options: argparse.Namespace,
    open_source: Callable[[], tuple[Source[Scene], Sequence[Scene]]],
    make: Callable[[SceneShard[Scene]], Report] = make_shard,
) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Args:
        name: Name of the source; file names begin with it.
        options: Parsed options, among them those of `add_options`.
        open_source: Finds the source and its scenes.
        make: Writes a shard and its report and returns the report.

    Raises:
        SystemExit: Nothing can be read at all, or finished shards were made with other options.
    """
    start_logging()
    index, count = options.part
    report = options.output / "reports" / f"{name}-{options.split}-part-{index}-of-{count}.json"
    try:
        source, scenes = open_source()
        shards = [
            SceneShard(
                shard_path(options.output, name, options.split, number), source,
                scenes[part.start : part.stop], options.text, options.crf,
            )
            for number, part in plan_shards(len(scenes), options.shard_size, options.part)
        ]  # fmt: skip
        in_part = sum(len(shard.scenes) for shard in shards)
        finish(shards, make, options.workers, report, in_part)
    except ValueError as error:
        raise SystemExit(f"{name}: {error}") from error


def plan_shards(scenes: int, shard_size: int, part: tuple[int, int] = (0, 1)) -> list[tuple[int, range]]:
    """Returns shard indices and their scenes; part (i, n) gets every n-th shard, beginning with shard i."""
    starts = range(0, scenes, shard_size)
    shards = [(index, range(start, min(start + shard_size, scenes))) for index, start in enumerate(starts)]
    return shards[part[0] :: part[1]]


def finish(
    jobs: Sequence[JobT], make: Callable[[JobT], Report], workers: int, report: Path, scenes: int | None
) -> None:
    """Makes all shards that are not finished, logs each, and writes the report of all.

    Args:
        jobs: All shards, finished or not.
        make: Writes a shard and its report and returns the report.
        workers: Number of processes.
        report: Path of the report of all.
        scenes: Number of scenes in all jobs, if it is known beforehand.

    Raises:
        ValueError: No sample came out, or finished shards were made with other options.
    """
    todo = [job for job in jobs if not is_finished(job)]
    counted = "" if scenes is None else f"{scenes} scenes, "
    logger.info("%s%d shards, %d exist already", counted, len(jobs), len(jobs) - len(todo))
    for count, made in enumerate(run_jobs(make, todo, workers), 1):
        logger.info(
            "%d/%d %s: %d samples, %d skipped, %.2f samples/s", count, len(todo), made["shard"],
            made["samples"], len(made["skipped"]), made["samples"] / max(made["seconds"], 1e-6),
        )  # fmt: skip
    summarise(jobs, scenes, report)


def run_jobs(make: Callable[[JobT], Result], jobs: Sequence[JobT], workers: int) -> Iterator[Result]:
    """Yields `make(job)` of every job: one after another, or as they finish in a pool of fresh processes."""
    if workers <= 1:
        yield from (make(job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_logging) as pool:
        for future in as_completed([pool.submit(make, job) for job in jobs]):
            yield future.result()


def start_logging() -> None:
    """Sets up the log lines of a command, or of one of its processes."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    for talkative in ("sentence_transformers", "trimesh"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
