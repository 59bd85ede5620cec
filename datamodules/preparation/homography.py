"""2D videos -> shards of short square clips with one view each.

    python -m datamodules.preparation.homography --videos clips/*.mp4 --license "CC0-1.0, me" \
        --output data/small --split train
    python -m datamodules.preparation.homography --packages unpacked/ --output data/small --split train

The other views, random homographies of the whole clip that vary smoothly from view to view, are made when
the clips are read (4Real-Video-V2, sec. 5, "2D transformed videos"), so clips are stored larger than they
are trained on. Videos whose frames are kept out of training go to `--split val` as a whole.
"""

from __future__ import annotations

import argparse
import glob
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.preparation.captions import embed_captions
from datamodules.preparation.package_videos import find_package_videos
from datamodules.preparation.shards import shard_path, write_shard
from datamodules.preparation.video_clips import cut_clips, find_shots, find_windows, read_video
from scene4d.sample_format import SceneSample

logger = logging.getLogger(__name__)
ZOOM = 2  # videos are shrunk to this many clip sizes, so crops are of down to half a frame's side


@dataclass(frozen=True)
class SourceVideo:
    """A video to cut: where it lies, its unique name, what it shows, whose it is, its content group."""

    path: Path
    name: str
    caption: str
    license: str
    group: str


def main(args: list[str] | None = None) -> None:
    """Runs the command; see the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(args)
    if options.packages is not None:
        videos = _from_packages(options.packages, options.split, options.shipped_only)
    else:
        videos = _from_files(options.videos, options.license)
    samples = clip_samples(videos, options.clips, options.frames, options.size, options.fps, options.seed)
    write_shards(samples, options.output, options.split, options.per_shard, options.crf)


def clip_samples(
    videos: list[SourceVideo], clips: int, num_frames: int, size: int, fps: float, seed: int
) -> Iterator[SceneSample]:
    """Cuts at most `clips` samples of `num_frames` frames and `size` x `size` pixels from every video.

    Frames are spaced evenly, as near to `fps` as whole strides of the video allow; no clip spans a cut.

    Raises:
        ValueError: A video cannot be read.
    """
    texts = embed_captions([video.caption for video in videos])
    for video, text in zip(videos, texts):
        decoded = read_video(video.path, size * ZOOM)
        shots = find_shots(decoded.frames)
        windows = find_windows(shots, decoded.fps, num_frames, fps)
        seed_of_video = seed ^ zlib.crc32(video.name.encode())
        count = 0
        for window, frames in cut_clips(decoded, windows, clips, num_frames, size, seed_of_video):
            yield SceneSample(
                key=f"{video.name}_{count:04d}", source="homography", images=frames[None],
                fps=decoded.fps / window.stride, caption=video.caption, text=text, group=video.group,
                license=video.license,
            )  # fmt: skip
            count += 1
        logger.info(
            "%s: %d clips from %d shots of %d frames", video.name, count, len(shots), len(decoded.frames)
        )


def write_shards(
    samples: Iterator[SceneSample], output: Path, split: str, per_shard: int, crf: int
) -> list[Path]:
    """Writes `homography-<split>-<index>.tar` of `per_shard` samples each and returns their paths.

    Raises:
        ValueError: There is no sample at all.
    """
    shuffled = sorted(samples, key=lambda sample: zlib.crc32(sample.key.encode()))
    if not shuffled:
        raise ValueError("no video gave a clip: all are too short or do not move")
    paths = []
    for index, first in enumerate(range(0, len(shuffled), per_shard)):
        path = shard_path(output, "homography", split, index)
        count = write_shard(path, shuffled[first : first + per_shard], crf)
        logger.info("%s: %d samples", path, count)
        paths.append(path)
    return paths


def _from_files(patterns: list[str], license_text: str) -> list[SourceVideo]:
    """Files and globs; the caption is the file name in words, the group the file."""
    paths = sorted({Path(name) for pattern in patterns for name in glob.glob(pattern, recursive=True)})
    if not paths:
        raise ValueError(f"no file matches --videos {' '.join(patterns)}")
    videos = []
    for path in paths:
        words = re.findall(r"[A-Za-z0-9]+", path.stem)
        name = "_".join(words).lower()
        videos.append(SourceVideo(path, name, " ".join(words).lower(), license_text, name))
    if len({video.name for video in videos}) < len(videos):
        raise ValueError(f"two videos have the same name in {sorted(video.name for video in videos)}")
    return videos


def _from_packages(root: Path, split: str, shipped_only: bool) -> list[SourceVideo]:
    found = find_package_videos(root, split, shipped_only)
    return [SourceVideo(path, v.name, v.caption, v.license, v.group or v.name) for path, v in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--videos", nargs="+", help="video files or quoted globs")
    source.add_argument("--packages", type=Path, help="folder in which the known packages were unpacked")
    parser.add_argument(
        "--shipped-only", action="store_true", help="of the packages, only what may be committed"
    )
    parser.add_argument("--license", default="", help="SPDX name and attribution of --videos")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--split", choices=["train", "val"], required=True)
    parser.add_argument("--clips", type=int, default=80, help="at most so many clips a video")
    parser.add_argument("--frames", type=int, default=29, help="frames a clip, 4k + 1")
    parser.add_argument("--size", type=int, default=96, help="side of a clip in pixels")
    parser.add_argument("--fps", type=float, default=12.0, help="wanted frames a second")
    parser.add_argument("--per-shard", type=int, default=100)
    parser.add_argument("--crf", type=int, default=14, help="H.264 quality, 0 (lossless) to 51")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
