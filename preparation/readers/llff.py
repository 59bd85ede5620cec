"""LLFF scenes -> stills; Neural 3D Video -> synchronized clips. Both keep cameras in `poses_bounds.npy`.

    python -m preparation.llff --root nerf_llff_data --output data/llff --images images_4
    python -m preparation.llff_video --root neural_3d_video --output data/neural3d

A row of `poses_bounds.npy` is a 3x5 matrix [camera-to-world | height, width, focal length] followed by the nearest
and the farthest depth. The axes of the camera are down, right, backward; the principal point is the middle of the
image. Source:
https://github.com/Fyusion/LLFF#using-your-own-poses-without-running-colmap
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
from preparation.readers.posed_views import (
    PosedView,
    find_folders,
    image_files,
    normalised_intrinsics,
)
from preparation.readers.windows import PathWindows, option
from scene4d.folders import listed, natural_key
from scene4d.sample_format import SceneSample

SUFFIXES = (".png", ".jpg", ".jpeg")
Camera = tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"], Shape]


@dataclass(frozen=True)
class LLFF(PathWindows):
    """Reads one still scene.

    Attributes:
        images: Folder of the pictures.
    """

    source: ClassVar[str] = "llff"
    terms: ClassVar[str] = "see the terms of the data set"
    images: str = option("images_4", "folder of the pictures inside a scene")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a `poses_bounds.npy`."""
        return find_folders(root, "poses_bounds.npy")

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one scene; the n-th row belongs to the n-th picture by name.

        LLFF wrote the rows in the order of plain sorting, so `img_10` comes before `img_9`; the path is then taken
        in natural order.

        Raises:
            ValueError: There are not as many pictures as rows, or the rows cannot be read; names the file.
        """
        folder = scene / self.images
        pictures = sorted(listed(folder, SUFFIXES))
        cameras = read_poses_bounds(scene / "poses_bounds.npy")
        if len(pictures) != len(cameras):
            raise ValueError(
                f"{folder}: {len(pictures)} pictures, expected {len(cameras)} (poses_bounds.npy)"
            )
        path = sorted(zip(pictures, cameras), key=lambda pair: natural_key(pair[0].name))
        yield from self.stills(
            [
                PosedView(str(picture), c2w, intrinsics, image_files([picture], shape))
                for picture, (c2w, intrinsics, shape) in path
            ]
        )


def read_poses_bounds(path: Path) -> list[Camera]:
    """Returns OpenCV c2w, intrinsics divided by the image size, and the shape of the pictures for every row.

    Raises:
        ValueError: The file is no array of n x 17 numbers; names it.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected a numpy array of numbers: {error}") from error
    if not isinstance(rows, ndarray):
        raise ValueError(f"{path}: expected a numpy array of numbers, found an archive of several")
    if rows.ndim != 2 or rows.shape[1] != 17:
        raise ValueError(f"{path}: has shape {rows.shape}, expected (n, 17)")
    return [_camera(row[:15].reshape(3, 5)) for row in rows.astype(np.float64)]


def _camera(row: Float[ndarray, "3 5"]) -> Camera:
    height, width, focal = row[:, 4]
    down, right, backward, place = row[:, :4].T
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, down, -backward, place], axis=1)
    intrinsics = normalised_intrinsics((focal, focal), (width / 2, height / 2), width, height)
    return c2w, intrinsics, Shape.of(width, height)
