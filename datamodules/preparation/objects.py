"""Animated MegaGlest units on white, seen by cameras on an arc -> shards.

    python -m datamodules.preparation.objects --root /usr/share/games/megaglest --output data/small \\
        --split train --scenes 1600 --seed 0 --workers 2

The models come with the Debian package megaglest-data (CC-BY-SA-3.0). Scene k of a split depends on nothing
but the seed, the split and k, so shards can be written by any process, in any order, and again.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.preparation.captions import embed_captions
from datamodules.preparation.jobs import parse_part, plan_shards, run_jobs, start_logging
from datamodules.preparation.object_clips import Clip, assign_groups, find_clips, split_groups
from datamodules.preparation.object_scenes import SOURCE, make_scene
from datamodules.preparation.shards import shard_path, write_shard
from scene4d.sample_format import SceneSample

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    options = _parser().parse_args(arguments)
    start_logging()
    clips = split_groups(assign_groups(find_clips(options.root)), options.split)
    units, groups = len({clip.unit for clip in clips}), len({clip.group for clip in clips})
    logger.info("%s: %d clips of %d units in %d content groups", options.split, len(clips), units, groups)
    jobs = []
    for index, scenes in plan_shards(options.scenes, options.shard_size, options.part):
        path = shard_path(options.output, SOURCE, options.split, index)
        if path.exists():
            logger.info("%s exists, skipped", path.name)
        else:
            jobs.append((path, clips, options.split, options.seed, scenes, options.crf))
    for _ in run_jobs(make_shard, jobs, options.workers):
        pass


def make_shard(path: Path, clips: list[Clip], split: str, seed: int, scenes: range, crf: int) -> None:
    """Renders scenes and writes them to one shard.

    Args:
        path: Of the shard.
        clips: Of this split, in a fixed order.
        split: train or val.
        seed: Of the whole set.
        scenes: Which scenes of the split.
        crf: H.264 constant rate factor.
    """
    start = time.monotonic()
    count = write_shard(path, _scenes(clips, split, seed, scenes), crf)
    seconds = time.monotonic() - start
    logger.info("%s: %d scenes in %.0f s (%.2f scenes/s)", path.name, count, seconds, count / seconds)


def _scenes(clips: list[Clip], split: str, seed: int, scenes: range) -> Iterator[SceneSample]:
    rejected = 0
    for index in scenes:
        scene, also_rejected = make_scene(clips, split, seed, index)
        rejected += also_rejected
        scene.text = embed_captions([scene.caption])[0]
        logger.info("%s scene %d: %s", split, index, scene.caption)
        yield scene
    logger.info("%d renderings rejected because the image hardly changes", rejected)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that holds megaglest's techs/")
    parser.add_argument("--output", type=Path, required=True, help="folder for objects-<split>-<index>.tar")
    parser.add_argument("--split", choices=("train", "val"), required=True)
    parser.add_argument("--scenes", type=int, required=True, help="number of scenes of the split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes, one shard each at a time")
    parser.add_argument("--part", type=parse_part, default=(0, 1), help="i/n: make every n-th shard only")
    parser.add_argument("--shard-size", type=int, default=100, help="scenes a shard")
    parser.add_argument("--crf", type=int, default=12, help="H.264 rate factor, smaller = better")
    return parser


if __name__ == "__main__":
    main()
