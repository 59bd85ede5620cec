"""2D videos -> shards of short square clips with one view each.

    python -m preparation.homography --videos clips/*.mp4 --license "CC0-1.0, me" \\
        --output data/small --split train
    python -m preparation.homography --packages unpacked/ --output data/small --split train

The other views are random homographies of the whole clip that vary smoothly from view to view. They are made when
the clips are read (4Real-Video-V2, sec. 5, "2D transformed videos"), so clips are stored larger than they
are trained on. Videos whose frames are kept out of training go to `--split val` as a whole. `package_videos.py`
lists the known packages with the authors and licences of their videos.
"""

from __future__ import annotations

import argparse
import glob
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from jaxtyping import Float
from numpy import ndarray

from datamodules.archives import Members
from preparation.videos.package_videos import find_package_videos
from preparation.videos.video_clips import Video, cut_clips, find_shots, find_windows
from preparation.writing import jobs
from preparation.writing.captions import embed_captions
from preparation.writing.reports import Report, write_reported
from scene4d.sample_format import SceneSample
from scene4d.video_files import video_info

logger = logging.getLogger(__name__)
SOURCE = "homography"
ZOOM = 2  # videos are shrunk to this many clip sizes, so a crop has at least half the side of a frame


@dataclass(frozen=True)
class SourceVideo:
    """A video to cut: its file, unique name, caption, licence and content group."""

    path: Path
    name: str
    caption: str
    license: str
    group: str


@dataclass(frozen=True)
class Clips:
    """Cuts clips from every video.

    Attributes:
        clips: Largest number of clips per video.
        frames: Frames per clip.
        size: Side of a clip in pixels.
        fps: Wanted frames per second.
        seed: Seed of all crops.
        texts: Embedded captions; embedding all at once or one by one differs in the last bit.
        text_encoder: Fingerprint of the text encoder that made them.
    """

    clips: int
    frames: int
    size: int
    fps: float
    seed: int
    texts: dict[str, Float[ndarray, "1 384"]]
    text_encoder: str = ""

    def options(self) -> dict[str, object]:
        """Returns all fields but the texts and their encoder."""
        names = {field.name for field in fields(self)} - {"texts", "text_encoder"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in names}

    def name(self, scene: SourceVideo) -> str:
        """Returns the name of the video."""
        return scene.name

    def read(self, scene: SourceVideo) -> Iterator[SceneSample]:
        """Cuts samples, frames spaced as near to `fps` as whole strides allow; no clip spans a cut.

        Raises:
            ValueError: The video cannot be read or gives no clip.
        """
        info = video_info(scene.path)
        video = Video(scene.path, info, self.size * ZOOM)
        shots = find_shots(video.previews())
        windows = find_windows(shots, info.rate, self.frames, self.fps)
        seed, count = self.seed ^ zlib.crc32(scene.name.encode()), 0
        for window, frames in cut_clips(video, windows, self.clips, self.frames, self.size, seed):
            yield SceneSample(
                key=f"{scene.name}_{count:04d}", source=SOURCE, images=frames[None],
                fps=info.rate / window.stride, caption=scene.caption, text=self.texts.get(scene.caption),
                text_encoder=self.text_encoder if scene.caption in self.texts else "",
                group=scene.group, license=scene.license,
            )  # fmt: skip
            count += 1
        logger.info("%s: %d clips from %d shots of %d frames", scene.name, count, len(shots), info.count)
        if not count:
            raise ValueError(f"{info.count} frames give no clip: too short, or nothing moves")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    options = _parser().parse_args(args)
    jobs.run(SOURCE, options, lambda: _open(options), make_shuffled_shard)


def make_shuffled_shard(shard: jobs.SceneShard[SourceVideo]) -> Report:
    """Writes one shard, its clips in an order that mixes the videos, and returns its report."""
    skipped = dict[str, str]()

    def shuffled() -> Iterator[Members]:
        yield from sorted(
            jobs.encoded(shard, skipped), key=lambda clip: zlib.crc32(str(clip["__key__"]).encode())
        )

    return write_reported(shard, shuffled(), skipped)


def _open(options: argparse.Namespace) -> tuple[Clips, list[SourceVideo]]:
    videos = _videos(options)
    captions = [video.caption for video in videos] if options.text else []
    embedded, encoder = embed_captions(captions)
    texts = dict(zip(captions, embedded))
    clips = Clips(options.clips, options.frames, options.size, options.fps, options.seed, texts, encoder)
    return clips, videos


def _videos(options: argparse.Namespace) -> list[SourceVideo]:
    if options.packages is not None:
        return _from_packages(options.packages, options.split, options.shipped_only)
    return _from_files(options.videos, options.license)


def _from_files(patterns: list[str], license_text: str) -> list[SourceVideo]:
    """Finds files by globs; the caption is the file name in words, and every file is a group of its own."""
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
        "--shipped-only",
        action="store_true",
        help="take only those videos of the packages that may be committed",
    )
    parser.add_argument("--license", default="", help="SPDX name and attribution of --videos")
    jobs.add_options(parser, shard_size=10, unit="videos", crf=14)
    parser.add_argument("--clips", type=jobs.positive, default=80, help="largest number of clips per video")
    parser.add_argument("--frames", type=int, default=29, help="frames per clip, 4k + 1")
    parser.add_argument("--size", type=int, default=96, help="side of a clip in pixels")
    parser.add_argument("--fps", type=float, default=12.0, help="wanted frames per second")
    parser.add_argument("--seed", type=int, default=0, help="seed of all crops (%(default)s)")
    return parser
