"""Animated units on white, seen by cameras on an arc -> shards.

    python -m preparation.objects --root /usr/share/games/megaglest --output data/small \\
        --split train --scenes 1600 --seed 0 --workers 2

    python -m preparation.objects --glb packs/adventurers packs/animals --size 128 \\
        --glb-license "CC0-1.0, Kay Lousberg" "CC0-1.0, Quaternius" --output data/glb --scenes 1000

`--root` is any folder that holds megaglest's techs/; its models come with the Debian package megaglest-data
(CC-BY-SA-3.0). `--glb` names folders of animated GLB files, beside it or in its place. Scene k of a split depends
only on the seed, the split and k.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preparation.synthetic import command
from preparation.synthetic.content import moving_assets
from preparation.synthetic.moving_asset import MovingAsset
from preparation.synthetic.object_scenes import SOURCE, draw_scene, scene_key
from preparation.writing.jobs import SkippedScene
from scene4d.sample_format import SceneSample


@dataclass(frozen=True)
class ObjectScenes:
    """All scenes of a split.

    Attributes:
        split: `train` or `val`.
        seed: Seed of the whole set.
        clips: Clips of this split, in a fixed order.
        size: Height and width of the images, pixels.
    """

    split: str
    seed: int
    clips: tuple[MovingAsset, ...]
    size: int

    def options(self) -> dict[str, object]:
        """Returns a checksum of everything that the scenes may show."""
        names = "\n".join(clip.key for clip in self.clips)
        return {"content": zlib.crc32(names.encode()), **command.size_option(self.size)}

    def name(self, scene: int) -> str:
        """Returns the key of a scene."""
        return scene_key(self.split, self.seed, scene)

    def read(self, scene: int) -> Iterator[SceneSample | SkippedScene]:
        """Yields rejected clips, then the scene."""
        return draw_scene(self.clips, self.split, self.seed, scene, self.size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    command.run(SOURCE, __doc__, _open, arguments, textures=False)


def _open(options: argparse.Namespace) -> ObjectScenes:
    return ObjectScenes(options.split, options.seed, moving_assets(options), options.size)
