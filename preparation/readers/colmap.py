"""Scenes reconstructed with COLMAP (MVImgNet, Tanks & Temples, own photographs) -> stills along the path.

    python -m preparation.colmap --root MVImgNet --output data/mvimgnet --name mvimgnet

A scene is a folder with pictures in `images/` and models, binary or text, in `sparse` or in folders of it such as
`sparse/0`. COLMAP writes several models where it cannot join all pictures; the one with most pictures is read. It holds
world-to-camera rotations (wxyz) and translations with OpenCV axes and pixel centres at +0.5. All of COLMAP's lens
models are read, and their distortion is removed. Views are ordered by the names of the pictures. The command needs
the package pycolmap. Source: https://colmap.github.io/format.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import (
    PosedView,
    find_folders,
    image_files,
    normalised_intrinsics,
)
from preparation.readers.windows import PathWindows, option
from scene4d.folders import listed, natural_key
from scene4d.sample_format import SceneSample

if TYPE_CHECKING:
    import pycolmap

logger = logging.getLogger(__name__)
CAMERA_FILES = ("cameras.bin", "cameras.txt")
MODELS = [f"{folder}/{name}" for folder in ("sparse", "sparse/*") for name in CAMERA_FILES]
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")


@dataclass(frozen=True)
class Colmap(PathWindows):
    """Reads one scene.

    Attributes:
        images: Folder of the pictures.
    """

    source: ClassVar[str] = "colmap"
    terms: ClassVar[str] = "see the terms of the data set"
    images: str = option("images", "folder of the pictures inside a scene, also a shrunk one")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a model."""
        return sorted({scene for model in MODELS for scene in find_folders(root, model)})

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one scene.

        Raises:
            ValueError: The model cannot be read; names its folder.
        """
        registered = _with_poses(largest_model(scene / "sparse"))
        registered.sort(key=lambda image: natural_key(image.name))
        yield from self.stills([self._view(scene, image) for image in registered])

    def _view(self, scene: Path, image: pycolmap.Image) -> PosedView:
        camera, picture = image.camera, scene / self.images / image.name
        assert camera is not None  # COLMAP registers no picture without one
        matrix = camera.calibration_matrix()
        intrinsics = normalised_intrinsics(
            (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), camera.width, camera.height
        )
        w2c = np.eye(4)
        w2c[:3] = image.cam_from_world().matrix()
        lens = None if camera.model.name in PINHOLES else partial(_distort, camera=camera, matrix=matrix)
        frames = image_files([picture], Shape.of(camera.width, camera.height))
        return PosedView(str(picture), np.linalg.inv(w2c), intrinsics, frames, distortion=lens)


def largest_model(folder: Path) -> pycolmap.Reconstruction:
    """Reads the model with most pictures of those in a folder and in the folders of it, whatever their names.

    Raises:
        ValueError: One of the models cannot be read; names its folder.
    """
    places = [place for place in [*listed(folder, ["*"]), folder] if listed(place, CAMERA_FILES)]
    models = [read_model(place) for place in places]
    sizes = [len(_with_poses(model)) for model in models]
    chosen = sizes.index(max(sizes))
    if len(models) > 1:
        counts = ", ".join(f"{place}: {size}" for place, size in zip(places, sizes))
        logger.warning("%s is read, the largest of several models (pictures: %s)", places[chosen], counts)
    return models[chosen]


def _with_poses(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return [image for image in model.images.values() if image.has_pose]


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Reads a model of COLMAP.

    Raises:
        ImportError: pycolmap is not installed.
        ValueError: There is no readable model; names the folder.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError("COLMAP models need pycolmap: pip install 'scene4d[preparation]'") from error
    try:
        return pycolmap.Reconstruction(str(folder))
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{folder}: expected a COLMAP model (cameras, images, points3D): {error}") from error


def _distort(
    rays: Float[ndarray, "n 2"], camera: pycolmap.Camera, matrix: Float[ndarray, "3 3"]
) -> Float[ndarray, "n 2"]:
    """Sends rays through the lens of `camera` and back to z = 1 by its calibration matrix."""
    pixels = camera.img_from_cam(np.concatenate([rays, np.ones((len(rays), 1))], axis=1))
    return (pixels - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
