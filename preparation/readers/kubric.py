"""Raw renders of Kubric -> clips with depth.

    python -m preparation.kubric --root renders --output data/kubric --view-pattern 'view_*'

A render is a folder with `rgba_00000.png`, `depth_00000.tiff` and `metadata.json`, whose `camera` holds
focal_length and sensor_width (mm), positions and quaternions (wxyz, camera-to-world with OpenGL axes) of
every frame. With `--view-pattern` a scene is a folder of such renders of the same simulation, one per camera.
Depth is stored as the distance from the centre of the camera and becomes planar here. Every view of a sample has
one camera for all times, so renders with a moving camera are skipped. Source: https://github.com/google-research/kubric
(kubric/file_io.py, kubric/cameras.py)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from numpy.typing import ArrayLike
from PIL import Image

from preparation.readers.posed_views import OPENGL_TO_OPENCV, PosedView, find_folders, image_files
from preparation.readers.windows import VideoClips, option
from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.sample_format import SceneSample

STILL = 1e-4  # scene units or quaternion components
FAR = 1000.0  # scene units; farther is background without depth


@dataclass(frozen=True)
class Kubric(VideoClips):
    """Reads the renders of one simulation.

    Attributes:
        frames: Frames per clip.
        view_pattern: Names of the renders of a scene. If it is empty, every render is a scene with one view.
        fps: Frames per second, which the files do not say.
    """

    source: ClassVar[str] = "kubric"
    terms: ClassVar[str] = "see the terms of the rendered assets"
    frames: int = option(21, "frames per clip; 4k + 1 suits the autoencoders")
    view_pattern: str = option(
        "", "names of a scene's renders, one per camera; if empty, every scene has one view"
    )
    fps: float = option(12.0, "frames per second, which the files do not say")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all renders, or the folders that hold renders of one simulation."""
        pattern = f"{self.view_pattern}/metadata.json" if self.view_pattern else "metadata.json"
        return find_folders(root, pattern)

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips of one scene.

        Raises:
            ValueError: A key or file is missing or malformed, or a camera moves; names it.
        """
        renders = sorted(scene.glob(self.view_pattern)) if self.view_pattern else [scene]
        views = [_view(render) for render in renders]
        stored = min(len(list(render.glob("rgba_*.png"))) for render in renders)
        yield from self.grids(views, stored, self.fps)


def fixed_camera(
    camera: Mapping[str, ArrayLike], aspect: float, place: str
) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """Returns OpenCV c2w and intrinsics divided by the image size.

    Args:
        camera: focal_length, sensor_width, positions, quaternions.
        aspect: Width over height of the image; pixels are square.
        place: File that error lines name.

    Raises:
        ValueError: A key is missing or malformed, or the camera moves.
    """
    try:
        positions = np.array(camera["positions"], float).reshape(-1, 3)
        quaternions = np.array(camera["quaternions"], float).reshape(-1, 4)
        focal = float(np.asarray(camera["focal_length"])) / float(np.asarray(camera["sensor_width"]))
    except KeyError as error:
        raise ValueError(f"{place}: expected a key {error} of camera") from error
    moved = max(np.ptp(positions, axis=0).max(), np.ptp(quaternions, axis=0).max())
    if moved > STILL:
        raise ValueError(f"{place}: the camera moves by {moved:.3g}, expected a fixed camera")
    c2w = np.eye(4)
    c2w[:3, :3] = quaternion_to_matrix(torch.from_numpy(quaternions[0])).numpy()
    c2w[:3, 3] = positions[0]
    return c2w @ OPENGL_TO_OPENCV, np.array([[focal, 0, 0.5], [0, focal * aspect, 0.5], [0, 0, 1]])


def planar_depth(
    distance: Float[ndarray, "h w"], intrinsics: Float[ndarray, "3 3"]
) -> Float32[ndarray, "h w"]:
    """Turns distance from the camera's centre into depth along its axis; 0 where there is only background."""
    height, width = distance.shape
    x = ((np.arange(width) + 0.5) / width - intrinsics[0, 2]) / intrinsics[0, 0]
    y = ((np.arange(height) + 0.5) / height - intrinsics[1, 2]) / intrinsics[1, 1]
    depth = distance / np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)
    return np.where(depth < FAR, depth, 0).astype(np.float32)


def _view(render: Path) -> PosedView:
    pictures = sorted(render.glob("rgba_*.png"))
    depths = [render / path.name.replace("rgba", "depth").replace(".png", ".tiff") for path in pictures]
    path = render / "metadata.json"
    if not pictures:
        raise ValueError(f"{render}: expected pictures rgba_NNNNN.png")
    try:
        camera = json.loads(path.read_text())["camera"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with a key camera: {error!r}") from error
    with Image.open(pictures[0]) as image:
        aspect = image.width / image.height
    c2w, intrinsics = fixed_camera(camera, aspect, str(path))
    return PosedView(str(render), c2w, intrinsics, image_files(pictures), _depth_files(depths, intrinsics))


def _depth_files(
    paths: Sequence[Path], intrinsics: Float[ndarray, "3 3"]
) -> Callable[[Sequence[int]], Iterator[Float32[ndarray, "h w"]]]:
    def depths(numbers: Sequence[int]) -> Iterator[Float32[ndarray, "h w"]]:
        for number in numbers:
            try:
                with Image.open(paths[number]) as image:
                    yield planar_depth(np.asarray(image, np.float64), intrinsics)
            except OSError as error:
                raise ValueError(f"{paths[number]}: expected depth as TIFF: {error}") from error

    return depths
