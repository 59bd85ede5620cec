"""NVIDIA Dynamic Scene -> clips of all twelve cameras.

    python -m preparation.nvidia_dynamic --root nvidia --output data/nvidia --frames 21

A scene has pictures `multiview_GT/TTTTTTTT/camNN.jpg` and a folder `calibration/camNN/` for every camera. There,
`extrinsic.txt` holds a row with the centre C of the camera and then the 3x3 world-to-camera rotation R with OpenCV
axes (t = -R C); `intrinsic.txt` holds a 3x3 matrix in pixels of the pictures, which are not to be shrunk. Source: https://gorokee.github.io/jsyoon/dynamic_synth
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import PosedView, find_folders, image_files
from preparation.readers.windows import RigClips, option
from scene4d.folders import listed
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample

OFF_CENTRE = 0.2  # of the width or height; no lens is so far off, but cameras of other pictures are


@dataclass(frozen=True)
class NvidiaDynamic(RigClips):
    """Reads one scene.

    Attributes:
        fps: Frames per second, which the files do not say.
    """

    source: ClassVar[str] = "nvidia_dynamic"
    terms: ClassVar[str] = "see the terms of the NVIDIA Dynamic Scene data set (Yoon et al. 2020)"
    fps: float = option(30.0, "frames per second, which the files do not say")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a calibration."""
        return find_folders(root, "calibration")

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips of one scene.

        Raises:
            ValueError: A calibration is malformed, or a picture is missing; names the file.
        """
        instants = [path for path in listed(scene / "multiview_GT", ["*"]) if path.is_dir()]
        if not instants:
            raise ValueError(f"{scene}/multiview_GT: expected a folder for every instant")
        folders = [path for path in listed(scene / "calibration", ["cam*"]) if path.is_dir()]
        if not folders:
            raise ValueError(f"{scene}/calibration: expected folders camNN")
        views = [
            _view(scene / "calibration" / name, [instant / f"{name}.jpg" for instant in instants])
            for name in self.kept([folder.name for folder in folders], str(scene))
        ]
        yield from self.grids(views, len(instants), self.fps)


def _view(folder: Path, pictures: list[Path]) -> PosedView:
    extrinsic = _matrix(folder / "extrinsic.txt", (4, 3))
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = extrinsic[1:].T, extrinsic[0]
    try:
        with open_picture(pictures[0]) as image:
            width, height = image.size
    except OSError as error:
        raise ValueError(f"{pictures[0]}: expected a picture: {error}") from error
    pixels = _matrix(folder / "intrinsic.txt", (3, 3))
    intrinsics = np.diag([1 / width, 1 / height, 1.0]) @ pixels
    centre = intrinsics[:2, 2]
    if not (np.abs(centre - 0.5) < OFF_CENTRE).all():
        raise ValueError(
            f"{folder}/intrinsic.txt: the principal point is at {centre.round(2).tolist()} of the width and height of "
            f"{pictures[0]} ({width}x{height}); expected it near the middle: are the pictures shrunk or cut?"
        )
    return PosedView(
        folder.name, c2w, intrinsics, image_files(pictures, Shape(width / height)), label=folder.name
    )


def _matrix(path: Path, shape: tuple[int, int]) -> Float[ndarray, "m n"]:
    try:
        return np.array(path.read_text().split(), float).reshape(shape)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected {shape[0]} rows of {shape[1]} numbers: {error}") from error
