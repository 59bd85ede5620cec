"""RealEstate10K and ACID: camera files and folders of frames -> stills along the camera path.

    python -m preparation.realestate --root realestate10k/train --output data/realestate

`--root` holds `CLIP.txt` as published: the first line is the address of the video (it may be missing, and blank lines
do not count), then each frame has one line
with its timestamp in microseconds, fx fy cx cy divided by width and height, two zeros, and the 3x4
world-to-camera matrix, row-major with OpenCV axes. Every clip also has a folder `CLIP/` with the frames
`TIMESTAMP.png|jpg` cut from the video; a name may be off by less than half the time between two frames, at most
2 ms. Frames that were not cut are left out. Source: https://google.github.io/realestate10k/download.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import PosedView, image_files
from preparation.readers.windows import PathWindows, option
from scene4d.folders import listed
from scene4d.sample_format import SceneSample

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VALUES = 19  # in the line of a frame
ROUNDED = 2000  # microseconds by which the name of a frame may be off
OBLONG = 0.1  # the cameras say no size of pictures, but their pixels are square to so much


@dataclass(frozen=True)
class RealEstate(PathWindows):
    """Reads one clip.

    Attributes:
        frames: Folder of a clip's frames, beside or below its camera file.
    """

    source: ClassVar[str] = "realestate10k"
    terms: ClassVar[str] = "see the terms of the data set and of its videos"
    frames: str = option("{clip}", "folder of a clip's frames, relative to its camera file")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all camera files."""
        return listed(root, [".txt"])

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one clip.

        Raises:
            ValueError: A line is malformed or there are too few frames; names the file.
        """
        folder = scene.parent / self.frames.format(clip=scene.stem)
        pictures = {int(p.stem): p for p in listed(folder, SUFFIXES) if p.stem.isdecimal()}
        cameras = read_cameras(scene)
        path = []
        for timestamp, picture in match_times(list(cameras), pictures).items():
            c2w, intrinsics = camera_of_row(cameras[timestamp])
            frames = image_files([picture], shape_of(intrinsics))
            path.append(PosedView(str(picture), c2w, intrinsics, frames))
        if not path:
            raise ValueError(f"{folder}: no frame named by a timestamp of {scene.name}")
        yield from self.stills(path)


def read_cameras(path: Path) -> dict[int, list[float]]:
    """Reads the 18 numbers of every frame by its timestamp, in the order of the file.

    Raises:
        ValueError: A line is malformed, or a timestamp appears twice; names the file and the line.
    """
    cameras: dict[int, list[float]] = {}
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    written = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    for place, (number, words) in enumerate(written):
        if place == 0 and not words[0].isdecimal():
            continue  # the address of the video
        timestamp, camera = _parse(words, f"{path} line {number}")
        if timestamp in cameras:
            raise ValueError(f"{path} line {number}: expected a new timestamp, {timestamp} appears twice")
        cameras[timestamp] = camera
    return cameras


def match_times(timestamps: Sequence[int], pictures: dict[int, Path]) -> dict[int, Path]:
    """Finds the picture of every timestamp, in their order; those without one are left out.

    A picture that is off by less than half the shortest time between two frames, and by at most 2 ms, is taken, so
    none can belong to two frames.
    """
    ordered, named = np.array(sorted(timestamps)), np.array(sorted(pictures))
    off = min(ROUNDED, (int(np.diff(ordered).min()) - 1) // 2 if len(ordered) > 1 else ROUNDED)
    matched = {}
    for timestamp in timestamps if len(named) else []:
        nearest = int(named[np.abs(named - timestamp).argmin()])
        if abs(nearest - timestamp) <= off:
            matched[timestamp] = pictures[nearest]
    return matched


def shape_of(intrinsics: Float[ndarray, "3 3"]) -> Shape:
    """Returns the shape of pictures whose pixels are square, from intrinsics divided by their size."""
    across, down = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    return Shape(down / across if across else math.nan, OBLONG)


def camera_of_row(row: Sequence[float]) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """Turns the 18 numbers of a frame into OpenCV c2w and intrinsics divided by the image size."""
    fx, fy, cx, cy = row[:4]
    w2c = np.eye(4)
    w2c[:3] = np.reshape(row[6:], (3, 4))
    return np.linalg.inv(w2c), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _parse(words: Sequence[str], place: str) -> tuple[int, list[float]]:
    try:
        timestamp, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{place}: expected numbers: {error}") from error
    if len(words) != VALUES:
        raise ValueError(f"{place}: has {len(words)} values, expected {VALUES}")
    return timestamp, numbers
