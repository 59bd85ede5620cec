"""The command shared by the sources whose scenes are drawn at random: objects, physics, static, rooms.

Scene k of a split depends on nothing but the seed, the split and k, so shards can be written by any process,
in any order, and again.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preparation.synthetic.stage import RejectedScene
from preparation.writing import jobs
from preparation.writing.jobs import SkippedScene, Source
from scene4d.sample_format import SceneSample

ATTEMPTS = 60
TEXTURE_LICENSE = "CC-BY-SA-3.0, the MegaGlest team (https://megaglest.org)"
SceneMaker = Callable[[Any, np.random.Generator, str], SceneSample]


@dataclass(frozen=True)
class SceneSet:
    """Scenes of independent drawings.

    Attributes:
        source: First word of shard names and keys.
        split: `train` or `val`.
        seed: Of the whole set.
        assets: Of this split, for `make_scene`; has `names()`.
        make_scene: Draws one scene, or raises `RejectedScene`.
    """

    source: str
    split: str
    seed: int
    assets: Any
    make_scene: SceneMaker

    def options(self) -> dict:
        """What may be shown."""
        return {"content": zlib.crc32("\n".join(self.assets.names()).encode())}

    def name(self, scene: int) -> str:
        """The scene's key."""
        return f"{self.source}-{self.split}-{self.seed}-{scene:06d}"

    def read(self, scene: int) -> Iterator[SceneSample | SkippedScene]:
        """Draws until a scene is accepted; before it, why the others were not.

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


def run(
    source: str,
    description: str | None,
    open_scenes: Callable[[argparse.Namespace], Source],
    arguments: Sequence[str] | None = None,
    textures: bool = True,
) -> None:
    """Entry point of a preparation command.

    Args:
        source: Name of the data source.
        description: For --help.
        open_scenes: Finds what may be shown and gives the scenes of the options' split and seed.
        arguments: Default: those of the process.
        textures: Whether the command takes pictures of floors and walls.

    Raises:
        SystemExit: No scene can be drawn, or finished shards were made with other options.
    """
    options = _parser(description, textures).parse_args(arguments)
    jobs.run(source, options, lambda: (open_scenes(options), range(options.scenes)))


def _parser(description: str | None, textures: bool) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the unpacked models, see above")
    jobs.add_options(parser)
    add("--scenes", type=jobs.positive, required=True, help="number of scenes of this split, in all parts")
    add("--seed", type=int, default=0, help="of the whole set (%(default)s)")
    if textures:
        add("--textures", type=Path, nargs="+", required=True, help="folders with floor and wall images")
        add("--texture-license", default=TEXTURE_LICENSE, help="SPDX name and attribution (%(default)s)")
    return parser
