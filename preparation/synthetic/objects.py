"""Animated MegaGlest units on white, seen by cameras on an arc -> shards.

    python -m preparation.objects --root /usr/share/games/megaglest --output data/small \\
        --split train --scenes 1600 --seed 0 --workers 2

`--root` is any folder that holds megaglest's techs/. The models come with the Debian package megaglest-data
(CC-BY-SA-3.0). Scene k of a split depends only on the seed, the split and k.
"""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preparation.synthetic import command
from preparation.synthetic.object_clips import Clip, assign_groups, find_clips, split_groups
from preparation.synthetic.object_scenes import SOURCE, draw_scene, scene_key
from preparation.writing.jobs import SkippedScene
from scene4d.sample_format import SceneSample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectScenes:
    """All scenes of a split.

    Attributes:
        split: `train` or `val`.
        seed: Seed of the whole set.
        clips: Clips of this split, in a fixed order.
    """

    split: str
    seed: int
    clips: tuple[Clip, ...]

    def options(self) -> dict[str, object]:
        """Returns a checksum of everything that the scenes may show."""
        names = "\n".join(f"{clip.unit}/{clip.path.name}" for clip in self.clips)
        return {"content": zlib.crc32(names.encode())}

    def name(self, scene: int) -> str:
        """Returns the key of a scene."""
        return scene_key(self.split, self.seed, scene)

    def read(self, scene: int) -> Iterator[SceneSample | SkippedScene]:
        """Yields rejected clips, then the scene."""
        return draw_scene(self.clips, self.split, self.seed, scene)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    command.run(SOURCE, __doc__, _open, arguments, textures=False)


def _open(options: argparse.Namespace) -> ObjectScenes:
    clips = split_groups(assign_groups(find_clips(options.root)), options.split)
    units, groups = len({clip.unit for clip in clips}), len({clip.group for clip in clips})
    logger.info("%s: %d clips of %d units in %d content groups", options.split, len(clips), units, groups)
    return ObjectScenes(options.split, options.seed, tuple(clips))
