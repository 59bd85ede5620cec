"""DL3DV-10K -> stills along the camera path.

    python -m preparation.dl3dv --root DL3DV-10K --output data/dl3dv --images images_4

A scene is a folder with `transforms.json` as nerfstudio writes it (w, h, fl_x, fl_y, cx, cy and OpenCV's
k1, k2, p1, p2 of the full-size pictures, camera-to-world with OpenGL axes) and pictures shrunk into
`images_4`, `images_8`. Pictures are freed of the lens distortion. Sources: https://dl3dv-10k.github.io and
https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from preparation.readers.posed_views import (
    OPENGL_TO_OPENCV,
    PosedView,
    find_folders,
    image_files,
    normalised_intrinsics,
)
from preparation.readers.windows import PathWindows, option
from preparation.rendering.lens import Distortion, distort
from scene4d.sample_format import SceneSample

CAMERA_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")


@dataclass(frozen=True)
class DL3DV(PathWindows):
    """Reads one scene.

    Attributes:
        images: Folder of the pictures.
    """

    source: ClassVar[str] = "dl3dv"
    terms: ClassVar[str] = "see the terms of DL3DV-10K (https://dl3dv-10k.github.io)"
    images: str = option("images_4", "folder of the pictures inside a scene")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a `transforms.json`."""
        return find_folders(root, "transforms.json")

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one scene, its frames in the order of their file names.

        Raises:
            ValueError: A key is missing or malformed; names the file and the key.
        """
        path = scene / "transforms.json"
        try:
            meta = json.loads(path.read_text())
            frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
            views = [self._view(scene, {**meta, **frame}) for frame in frames]
        except KeyError as error:
            raise ValueError(f"{path}: expected a key {error}") from error
        except TypeError as error:
            raise ValueError(f"{path}: a value has another type than expected: {error}") from error
        yield from self.stills(views)

    def _view(self, scene: Path, frame: dict) -> PosedView:
        if frame.get("camera_model", "OPENCV") not in CAMERA_MODELS:
            raise ValueError(
                f"{scene}: camera_model {frame['camera_model']}, expected one of {CAMERA_MODELS}"
            )
        picture = scene / self.images / Path(frame["file_path"]).name
        intrinsics = normalised_intrinsics(
            (frame["fl_x"], frame["fl_y"]), (frame["cx"], frame["cy"]), frame["w"], frame["h"]
        )
        c2w = np.array(frame["transform_matrix"], float) @ OPENGL_TO_OPENCV
        return PosedView(str(picture), c2w, intrinsics, image_files([picture]), distortion=_distortion(frame))


def _distortion(frame: dict) -> Distortion | None:
    coefficients = [float(frame.get(name, 0)) for name in ("k1", "k2", "p1", "p2")]
    return partial(distort, coefficients=coefficients) if any(coefficients) else None
