"""Writes the two reference videos of a held-out scene, as a user would bring them.

    python -m preparation.example_videos --shard assets/small/shards/objects-val-000000.tar \\
        --output outputs/demo/references
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import webdataset as wds

from scene4d.atomic import replacing
from scene4d.sample_format import SceneSample, decode_sample
from scene4d.sample_pictures import encode_video

log = logging.getLogger(__name__)


def read_scene(shard: str, index: int) -> SceneSample:
    """Reads one scene of a shard.

    Raises:
        ValueError: The shard is missing or has fewer scenes; names it.
    """
    if not Path(shard).is_file():
        raise ValueError(f"shard {shard!r} does not exist")
    count = 0
    for count, members in enumerate(wds.WebDataset([shard], shardshuffle=False), 1):
        if count == index + 1:
            return decode_sample(members, depth=False)
    raise ValueError(f"{shard!r} has {count} scenes, asked for number {index}")


def write_references(scene: SceneSample, output: Path, frames: int, views: int, stride: int) -> None:
    """Writes `fixed_view.mp4` (view 0 over time) and `freeze_time.mp4` (the first moment over views)."""
    chosen = [k * stride for k in range(views)]
    videos = {"fixed_view": scene.images[0, :frames], "freeze_time": scene.images[chosen, 0]}
    for name, video in videos.items():
        with replacing(output / f"{name}.mp4") as temporary:
            temporary.write_bytes(encode_video(np.ascontiguousarray(video), scene.fps, crf=6))
    log.info("%s (%s) -> %s", scene.key, scene.caption, output)


def main(args: list[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", required=True, help="shard of held-out scenes")
    parser.add_argument("--index", type=int, default=0, help="number of the scene in the shard, from 0")
    parser.add_argument("--output", required=True, type=Path, help="folder of the two videos")
    parser.add_argument("--frames", type=int, default=17, help="number of frames of the fixed-view video")
    parser.add_argument("--views", type=int, default=4, help="number of views of the freeze-time video")
    parser.add_argument("--stride", type=int, default=1, help="cameras from one view to the next")
    options = parser.parse_args(args)
    scene = read_scene(options.shard, options.index)
    write_references(scene, options.output, options.frames, options.views, options.stride)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
