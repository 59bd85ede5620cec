"""Raw renders of Kubric -> clips with depth.

    python -m preparation.kubric --root renders --output data/kubric --view-pattern 'view_*'

A render is a folder with `rgba_00000.png`, `depth_00000.tiff` and `metadata.json`, whose `camera` holds
focal_length and sensor_width (mm), positions and quaternions (wxyz, camera-to-world with OpenGL axes) of
every frame. With `--view-pattern` a scene is a folder of such renders of the same simulation, one per camera.
Depth is stored as the distance from the centre of the camera and becomes planar here. `--depth planar` reads renders
whose depth is along the axis of the camera already; a render in which the other reading makes surfaces flat is refused.
Every view of a sample has
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

from preparation.readers.flatness import check_depth_kind
from preparation.readers.picture_shape import Shape, check_shape
from preparation.readers.posed_views import OPENGL_TO_OPENCV, PosedView, find_folders, image_files
from preparation.readers.windows import RigClips, option
from scene4d.folders import listed
from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample

KINDS = ("distance", "planar")
STILL = 1e-4  # scene units or quaternion components
PICTURES = "rgba_*.png"
FAR = 1000.0  # scene units; farther is background without depth


@dataclass(frozen=True)
class Kubric(RigClips):
    """Reads the renders of one simulation.

    Attributes:
        frames: Frames per clip.
        view_pattern: Names of the renders of a scene. If it is empty, every render is a scene with one view.
        fps: Frames per second, which the files do not say.
        depth: What the files hold: `distance` from the centre of the camera, or `planar` depth along its axis.
    """

    source: ClassVar[str] = "kubric"
    terms: ClassVar[str] = "see the terms of the rendered assets"
    frames: int = option(21, "frames per clip; 4k + 1 suits the autoencoders")
    view_pattern: str = option(
        "", "names of a scene's renders, one per camera; if empty, every scene has one view"
    )
    fps: float = option(12.0, "frames per second, which the files do not say")
    depth: str = option("distance", "what depth files hold: `distance` from the camera's centre, or `planar`")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all renders, or the folders that hold renders of one simulation."""
        pattern = f"{self.view_pattern}/metadata.json" if self.view_pattern else "metadata.json"
        return find_folders(root, pattern)

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips of one scene.

        Raises:
            ValueError: A key or file is missing or malformed, a camera moves, or depth is of the other kind; names it.
        """
        renders = [scene]
        if self.view_pattern:
            folders = {path.name: path for path in listed(scene, [self.view_pattern]) if path.is_dir()}
            renders = [folders[name] for name in self.kept(list(folders), str(scene))]
        views = [_view(render, self.depth, render.name if self.view_pattern else "") for render in renders]
        stored = min(len(listed(render, [PICTURES])) for render in renders)
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
    stored: Float[ndarray, "h w"], intrinsics: Float[ndarray, "3 3"], kind: str, place: str
) -> Float32[ndarray, "h w"]:
    """Returns depth along the camera's axis; 0 where there is only background.

    Args:
        stored: Depth as the file holds it.
        intrinsics: Intrinsics divided by width and height.
        kind: `distance` from the camera's centre, or `planar`.
        place: File that errors name.

    Raises:
        ValueError: The kind is not known, or surfaces are flat if depth is of the other kind.
    """
    if kind not in KINDS:
        raise ValueError(f"depth is {kind!r}, expected one of {KINDS}")
    height, width = stored.shape
    x = ((np.arange(width) + 0.5) / width - intrinsics[0, 2]) / intrinsics[0, 0]
    y = ((np.arange(height) + 0.5) / height - intrinsics[1, 2]) / intrinsics[1, 1]
    lengths = np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)  # of rays that reach z = 1
    depth = stored / lengths if kind == "distance" else stored
    known = depth < FAR
    check_depth_kind(np.where(known, stored, 0), lengths, kind, place)
    return np.where(known, depth, 0).astype(np.float32)


def _view(render: Path, kind: str, label: str) -> PosedView:
    pictures = listed(render, [PICTURES])
    depths = [render / path.name.replace("rgba", "depth").replace(".png", ".tiff") for path in pictures]
    path = render / "metadata.json"
    if not pictures:
        raise ValueError(f"{render}: expected pictures rgba_NNNNN.png")
    try:
        camera = json.loads(path.read_text())["camera"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with a key camera: {error!r}") from error
    with open_picture(pictures[0]) as image:
        aspect = image.width / image.height
    c2w, intrinsics = fixed_camera(camera, aspect, str(path))
    shape = Shape(aspect)
    opened = _depth_files(depths, intrinsics, shape, kind)
    return PosedView(str(render), c2w, intrinsics, image_files(pictures, shape), opened, label=label)


def _depth_files(
    paths: Sequence[Path], intrinsics: Float[ndarray, "3 3"], shape: Shape, kind: str
) -> Callable[[Sequence[int]], Iterator[Float32[ndarray, "h w"]]]:
    def depths(numbers: Sequence[int]) -> Iterator[Float32[ndarray, "h w"]]:
        for number in numbers:
            try:
                with open_picture(paths[number]) as image:
                    check_shape(str(paths[number]), image.size, shape)
                    yield planar_depth(np.asarray(image, np.float64), intrinsics, kind, str(paths[number]))
            except OSError as error:
                raise ValueError(f"{paths[number]}: expected depth as TIFF: {error}") from error

    return depths
