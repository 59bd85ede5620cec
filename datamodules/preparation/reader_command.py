"""The command shared by all readers of raw data sets: options, parts, processes, restarts, the last report."""

from __future__ import annotations

import argparse
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datamodules.preparation.jobs import parse_part, plan_shards, run_jobs, start_logging
from datamodules.preparation.reader_shards import Reader, ShardJob, make_shard, scene_name
from datamodules.preparation.reports import is_finished, summarise
from datamodules.preparation.shards import shard_path

logger = logging.getLogger(__name__)
SPLIT_BUCKETS = 10_000  # of the split by names


def run(reader: type, description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Entry point of a reader's command.

    Args:
        reader: Class of the reader.
        description: For --help.
        arguments: Default: those of the process.

    Raises:
        SystemExit: Nothing can be read at all, or finished shards were made with other options.
    """
    options = _parser(reader, description).parse_args(arguments)
    start_logging()
    chosen = reader(**{field.name: getattr(options, field.name) for field in fields(reader)})
    try:
        prepare(chosen, options)
    except ValueError as error:
        raise SystemExit(f"{options.name}: {error}") from error


def prepare(reader: Reader, options: argparse.Namespace) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Raises:
        ValueError: No scene is found, no sample came out, or finished shards were made with other options.
    """
    scenes = _scenes_of_split(reader, options)
    jobs = _plan(reader, scenes, options)
    todo = [job for job in jobs if not is_finished(job)]
    logger.info("%d scenes, %d shards, %d exist already", len(scenes), len(jobs), len(jobs) - len(todo))
    for count, report in enumerate(run_jobs(make_shard, [(job,) for job in todo], options.workers), 1):
        logger.info(
            "%d/%d %s: %d samples of %d scenes, %d skipped, %.2f samples/s", count, len(todo),
            report["shard"], report["samples"], report["recipe"]["scenes"], len(report["skipped"]),
            report["samples"] / max(report["seconds"], 1e-6),
        )  # fmt: skip
    index, count = options.part
    path = options.output / "reports" / f"{options.name}-{options.split}-part-{index}-of-{count}.json"
    summarise(jobs, sum(len(job.scenes) for job in jobs), path)


def _scenes_of_split(reader: Reader, options: argparse.Namespace) -> list[Path]:
    scenes = sorted(reader.find_scenes(options.root))
    if options.val_share > 0:
        held_out = options.val_share * SPLIT_BUCKETS
        names = [scene_name(scene, options.root).encode() for scene in scenes]
        in_val = [zlib.crc32(name) % SPLIT_BUCKETS < held_out for name in names]
        scenes = [scene for scene, val in zip(scenes, in_val) if val == (options.split == "val")]
    if not scenes:
        raise ValueError(f"{options.root} holds no scene of this format for split {options.split}")
    return scenes


def _plan(reader: Reader, scenes: list[Path], options: argparse.Namespace) -> list[ShardJob]:
    captions = _captions(options.captions) if options.captions else {}
    return [
        ShardJob(
            reader, options.name, options.root, shard_path(options.output, options.name, options.split, index),
            [scenes[k] for k in numbers], captions, options.text, options.license, options.crf,
        )
        for index, numbers in plan_shards(len(scenes), options.shard_size, options.part)
    ]  # fmt: skip


def _captions(path: Path) -> dict[str, str]:
    try:
        captions = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object, caption by scene name: {error}") from error
    if not isinstance(captions, dict):
        raise ValueError(f"{path}: expected a JSON object, caption by scene name")
    return captions


def _size(text: str) -> tuple[int, int]:
    """`256x448` or `256` -> (height, width)."""
    sides = [int(side) if side.isdigit() else 0 for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"size must be HEIGHTxWIDTH or one number of pixels, got {text!r}")
    return sides[0], sides[-1]


def _parser(reader: Any, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the data set")
    add("--output", type=Path, required=True, help="folder of the shards and of reports/")
    add("--name", default=reader.source, help="of the source, first word of shards and keys (%(default)s)")
    add("--split", choices=("train", "val"), default="train", help="names the shards")
    add("--val-share", type=float, default=0.0, help="share of the scenes, by their names, that is val's")
    add("--part", type=parse_part, default=(0, 1), help="i/n: make every n-th shard only")
    add("--workers", type=int, default=1, help="processes, one shard each at a time")
    add("--shard-size", type=int, default=100, help="scenes (pixelSplat: chunks) of a shard")
    add("--captions", type=Path, help="JSON: caption by scene name, as the reports name scenes")
    add("--text", action=argparse.BooleanOptionalAction, default=True, help="embed the captions")
    add("--license", default=reader.terms, help="SPDX name and attribution (%(default)s)")
    add("--crf", type=int, default=12, help="H.264 rate factor, smaller = better")
    for field in fields(reader):
        kind = _size if field.name == "size" else type(field.default)
        text = f"{field.metadata['help']} (default: {field.default})"
        add(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=text)
    return parser
