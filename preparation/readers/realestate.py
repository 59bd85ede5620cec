"""RealEstate10K and ACID: camera files and folders of frames -> stills along the camera path.

    python -m preparation.realestate --root realestate10k/train --output data/realestate

`--root` holds `CLIP.txt` as published: the first line is the address of the video, then each frame has one line
with its timestamp in microseconds, fx fy cx cy divided by width and height, two zeros, and the 3x4
world-to-camera matrix, row-major with OpenCV axes. Every clip also has a folder `CLIP/` with the frames
`TIMESTAMP.png|jpg` cut from the video. Frames that were not cut are left out. Source: https://google.github.io/realestate10k/download.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.readers.posed_views import PosedView, image_files
from preparation.readers.windows import PathWindows, option
from scene4d.sample_format import SceneSample

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VALUES = 19  # in the line of a frame


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
        return list(root.glob("*.txt"))

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one clip.

        Raises:
            ValueError: A line is malformed or there are too few frames; names the file.
        """
        folder = scene.parent / self.frames.format(clip=scene.stem)
        pictures = {p.stem: p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES}
        path = []
        for number, line in enumerate(scene.read_text().splitlines()[1:], 2):
            timestamp, camera = _parse(line, f"{scene} line {number}")
            if timestamp in pictures:
                c2w, intrinsics = camera_of_row(camera)
                picture = pictures[timestamp]
                path.append(PosedView(str(picture), c2w, intrinsics, image_files([picture])))
        if not path:
            raise ValueError(f"{folder}: no frame named by a timestamp of {scene.name}")
        yield from self.stills(path)


def camera_of_row(row: Sequence[float]) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """Turns the 18 numbers of a frame into OpenCV c2w and intrinsics divided by the image size."""
    fx, fy, cx, cy = row[:4]
    w2c = np.eye(4)
    w2c[:3] = np.reshape(row[6:], (3, 4))
    return np.linalg.inv(w2c), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _parse(line: str, place: str) -> tuple[str, list[float]]:
    words = line.split()
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{place}: expected numbers: {error}") from error
    if len(words) != VALUES:
        raise ValueError(f"{place}: has {len(words)} values, expected {VALUES}")
    return words[0], numbers
