"""All sources whose scenes are drawn at random share this command: objects, physics, static, rooms.

Scene k of a split depends only on the seed, the split and k, so any process can write any shard, in any order,
and again.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from preparation.synthetic.stage import SIZE, RejectedScene
from preparation.writing import jobs
from preparation.writing.jobs import SkippedScene, Source
from scene4d.sample_format import SceneSample

ATTEMPTS = 60
TEXTURE_LICENSE = "CC-BY-SA-3.0, the MegaGlest team (https://megaglest.org)"


class NamedAssets(Protocol):
    """Anything that scenes may show, and the size of their images in pixels."""

    @property
    def size(self) -> int:
        """Height and width of the images, pixels."""

    def names(self) -> list[str]:
        """Names everything that a scene may show, so that finished shards of other assets are refused."""


Shown = TypeVar("Shown", bound=NamedAssets)
SceneMaker = Callable[[Shown, np.random.Generator, str], SceneSample]


@dataclass(frozen=True)
class SceneSet(Generic[Shown]):
    """Scenes that are drawn independently of each other.

    Attributes:
        source: First word of shard names and keys.
        split: `train` or `val`.
        seed: Seed of the whole set.
        assets: Everything that the scenes of this split may show.
        make_scene: Draws one scene, or raises `RejectedScene`.
    """

    source: str
    split: str
    seed: int
    assets: Shown
    make_scene: SceneMaker[Shown]

    def options(self) -> dict[str, object]:
        """Returns a checksum of everything that the scenes may show."""
        content = zlib.crc32("\n".join(self.assets.names()).encode())
        return {"content": content, **size_option(self.assets.size)}

    def name(self, scene: int) -> str:
        """Returns the key of a scene."""
        return f"{self.source}-{self.split}-{self.seed}-{scene:06d}"

    def read(self, scene: int) -> Iterator[SceneSample | SkippedScene]:
        """Draws until a scene is accepted, and yields the rejected drawings before it.

        Raises:
            ValueError: All attempts were rejected; gives the last reason.
        """
        source, reason = zlib.crc32(f"{self.source}-{self.split}".encode()), ""
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([source, self.seed, scene, attempt])
            try:
                yield self.make_scene(self.assets, rng, self.name(scene))
                return
            except RejectedScene as rejected:
                reason = str(rejected)
            yield SkippedScene(f"drawing {attempt}", reason)
        raise ValueError(f"all {ATTEMPTS} attempts rejected, at last: {reason}")


def size_option(size: int) -> dict[str, object]:
    """Returns what a report says about the size: nothing at the usual one, as in reports from before there was one."""
    return {} if size == SIZE else {"size": size}


def run(
    source: str,
    description: str | None,
    open_scenes: Callable[[argparse.Namespace], Source[int]],
    arguments: Sequence[str] | None = None,
    textures: bool = True,
) -> None:
    """Runs the command of a source.

    Args:
        source: Name of the data source.
        description: Text of `--help`.
        open_scenes: Finds the assets and returns the scenes for the split and the seed of the options.
        arguments: Command line; None takes that of the process.
        textures: Whether the command takes pictures of floors and walls.

    Raises:
        SystemExit: No scene can be drawn, or finished shards were made with other options.
    """
    parser = _parser(description, textures)
    options = parser.parse_args(arguments)
    if options.root is None and not options.glb:
        parser.error("nothing to show: give --root or --glb")
    jobs.run(source, options, lambda: (open_scenes(options), range(options.scenes)))


def _parser(description: str | None, textures: bool) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    add = parser.add_argument
    add("--root", type=Path, help="folder of the unpacked models, see above")
    add(
        "--glb",
        type=Path,
        nargs="+",
        default=[],
        help="folders of GLB files, shown too or in place of --root",
    )
    add(
        "--glb-license",
        nargs="+",
        default=[],
        help="SPDX name and author of all GLB files, or of each folder",
    )
    jobs.add_options(parser)
    add("--scenes", type=jobs.positive, required=True, help="number of scenes of this split, in all parts")
    add("--seed", type=int, default=0, help="seed of the whole set (%(default)s)")
    add(
        "--size",
        type=jobs.positive,
        default=SIZE,
        help="height and width of the images, pixels (%(default)s)",
    )
    if textures:
        add("--textures", type=Path, nargs="+", required=True, help="folders with floor and wall images")
        add("--texture-license", default=TEXTURE_LICENSE, help="SPDX name and attribution (%(default)s)")
    return parser
