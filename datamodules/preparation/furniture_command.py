"""The command line shared by the furniture sources, and their restartable loop over shards and scenes."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.preparation.captions import embed_captions
from datamodules.preparation.furniture import furniture_of_split, read_catalogues
from datamodules.preparation.shards import shard_path, write_shard
from datamodules.preparation.stage import Assets, RejectedScene
from datamodules.preparation.surfaces import texture_files
from scene4d.sample_format import SceneSample

logger = logging.getLogger(__name__)

ATTEMPTS = 60
TEXTURE_LICENSE = "CC-BY-SA-3.0, the MegaGlest team (https://megaglest.org)"
SceneMaker = Callable[[Any, np.random.Generator, str], SceneSample]


@dataclass(frozen=True)
class SceneSet:
    """All scenes of one source and split; scene number n is the same on every machine.

    Attributes:
        source: First word of shard names and keys.
        split: `train` or `val`.
        seed: Of the whole set.
        assets: Of this split, for `make_scene`.
        make_scene: Draws one scene.
    """

    source: str
    split: str
    seed: int
    assets: Any
    make_scene: SceneMaker

    def draw(self, number: int) -> SceneSample:
        """Draws until a scene is accepted, logging why the others were not.

        Raises:
            ValueError: All attempts were rejected; gives the last reason.
        """
        key = f"{self.source}-{self.split}-{self.seed}-{number:06d}"
        name = zlib.crc32(f"{self.source}-{self.split}".encode())
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                return self.make_scene(
                    self.assets, np.random.default_rng([name, self.seed, number, attempt]), key
                )
            except RejectedScene as rejected:
                reason = str(rejected)
                logger.info("%s attempt %d rejected: %s", key, attempt, reason)
        raise ValueError(f"{key}: all {ATTEMPTS} attempts rejected, at last: {reason}")


def run(source: str, make_scene: SceneMaker, arguments: Sequence[str] | None = None) -> None:
    """Entry point of a preparation command.

    Args:
        source: Name of the data source.
        make_scene: Draws one scene.
        arguments: Default: those of the process.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("trimesh").setLevel(logging.WARNING)
    options = _parser(source).parse_args(arguments)
    assets = Assets(
        tuple(furniture_of_split(read_catalogues(options.root), options.split)),
        tuple(texture_files(options.textures, options.split)),
        options.texture_license,
    )
    scene_set = SceneSet(source, options.split, options.seed, assets, make_scene)
    part = _part(options.part)
    write_shards(scene_set, options.output, options.scenes, options.shard_size, options.workers, part)


def write_shards(
    scene_set: SceneSet,
    output: Path,
    scenes: int,
    shard_size: int = 100,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    crf: int = 12,
) -> None:
    """Writes the shards that do not exist yet.

    Args:
        scene_set: What to draw.
        output: Folder of the shards.
        scenes: In all shards of all parts together.
        shard_size: Scenes in a shard.
        workers: Processes that render.
        part: `(i, n)`: this process writes every n-th shard, starting with shard i.
        crf: H.264 constant rate factor.

    Raises:
        ValueError: A number is not positive, or a scene was rejected too often.
    """
    if min(scenes, shard_size, workers) < 1:
        raise ValueError(f"scenes {scenes}, shard size {shard_size}, workers {workers} must all be positive")
    for index in range(part[0], -(-scenes // shard_size), part[1]):
        path = shard_path(output, scene_set.source, scene_set.split, index)
        if path.exists():
            logger.info("%s exists, skipped", path)
            continue
        started = time.monotonic()
        numbers = range(index * shard_size, min(scenes, (index + 1) * shard_size))
        count = write_shard(path, _captioned(_drawn(scene_set, numbers, workers)), crf)
        logger.info("%s: %d scenes in %.0f s", path, count, time.monotonic() - started)


def _drawn(scene_set: SceneSet, numbers: range, workers: int) -> Iterator[SceneSample]:
    if workers == 1:
        yield from map(scene_set.draw, numbers)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(scene_set.draw, numbers)


def _captioned(samples: Iterator[SceneSample]) -> Iterator[SceneSample]:
    for sample in samples:
        logger.info("%s: %s", sample.key, sample.caption)
        yield replace(sample, text=embed_captions([sample.caption])[0])


def _part(text: str) -> tuple[int, int]:
    """`2/5` -> (2, 5)."""
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise ValueError(f"part must be i/n with 0 <= i < n, got {text!r}")
    return int(first), int(second)


def _parser(source: str) -> argparse.ArgumentParser:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(f"python -m datamodules.preparation.{source}", formatter_class=formatter)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder with the unzipped furniture catalogues")
    add("--textures", type=Path, nargs="+", required=True, help="folders with floor and wall images")
    add("--texture-license", default=TEXTURE_LICENSE, help="SPDX name and attribution of the images")
    add("--output", type=Path, required=True, help="folder of the shards")
    add("--scenes", type=int, required=True, help="number of scenes of this split")
    add("--split", choices=("train", "val"), required=True)
    add("--seed", type=int, default=0)
    add("--shard-size", type=int, default=100, help="scenes in a shard")
    add("--workers", type=int, default=1, help="rendering processes")
    add("--part", default="0/1", help="i/n: write every n-th shard, starting with shard i")
    return parser
