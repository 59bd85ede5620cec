"""Calibrated views of a raw data set become one sample of the wanted size.

Every reader states its cameras here in one convention: camera-to-world with OpenCV axes (x right, y down, z
forward) and intrinsics divided by the image's width (first row) and height (second row), so that they hold
for any stored resolution. Pixel centres are at +0.5: the left edge of an image is 0, its right edge 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from preparation.readers.picture_shape import Shape, as_calibrated, check_shape
from preparation.rendering.lens import Distortion, undistort
from scene4d.folders import is_hidden
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # right-multiplied to a c2w with y up, z backward
ROTATION_TOLERANCE = 1e-2
DEPTH_EVERY = 4  # frames; depth of the frames in between is not kept


@dataclass(frozen=True)
class PosedView:
    """One camera of a scene, whose pictures are not read yet.

    Attributes:
        name: Name that error lines use.
        c2w: OpenCV camera-to-world matrix.
        intrinsics: Intrinsics divided by width and height, see above.
        frames: Opens the pictures with the given numbers, in ascending order.
        depths: Opens planar depth in scene units (0 = unknown) in the same way; None if there is none.
        distortion: Distortion of the lens, on image points at z = 1; None for a pinhole camera.
        label: Name of the camera in its data set, which the sample keeps; empty if it has none.
        shape: Shape of the pictures that belong to the intrinsics; None if the data set does not say.
    """

    name: str
    c2w: Float[ndarray, "4 4"]
    intrinsics: Float[ndarray, "3 3"]
    frames: Callable[[Sequence[int]], Iterable[Image.Image]]
    depths: Callable[[Sequence[int]], Iterable[Float32[ndarray, "h w"]]] | None = None
    distortion: Distortion | None = None
    label: str = ""
    shape: Shape | None = None


def normalised_intrinsics(
    focal: tuple[float, float], centre: tuple[float, float], width: float, height: float
) -> Float[ndarray, "3 3"]:
    """Divides intrinsics in pixels of a `width` x `height` image by its size."""
    return np.array(
        [[focal[0] / width, 0, centre[0] / width], [0, focal[1] / height, centre[1] / height], [0, 0, 1]]
    )


def assemble(
    key: str, views: Sequence[PosedView], frames: Sequence[int], size: tuple[int, int], fps: float = 1.0
) -> SceneSample:
    """Reads the pictures of the views and brings them to one size, intrinsics and depth with them.

    Args:
        key: Name of the sample.
        views: Views in the order of the sample.
        frames: Numbers of the pictures that every view shows; [0] for stills.
        size: Height and width of the sample.
        fps: Frames per second of the chosen frames.

    Raises:
        ValueError: A camera is no rigid pose or has no usable focal length, a picture is missing or
            unreadable, or the pictures of a view differ in size; names the view.
    """
    images, intrinsics = zip(*(_read_view(view, frames, size) for view in views))
    depths, with_depth = None, list(range(0, len(frames), DEPTH_EVERY))
    if all(view.depths is not None for view in views):
        depths = np.stack([_read_depths(view, [frames[k] for k in with_depth], size) for view in views])
    return SceneSample(
        key=key, source="", images=np.stack(images), fps=fps,
        c2w=np.stack([view.c2w for view in views]).astype(np.float32),
        intrinsics=np.stack(intrinsics).astype(np.float32),
        depths=depths, depth_frames=[] if depths is None else with_depth,
        view_names=[view.label for view in views] if all(view.label for view in views) else [],
    )  # fmt: skip


def fit_box(width: int, height: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the largest central box (left, top, right, bottom) with the aspect ratio of `size`."""
    scale = max(size[0] / height, size[1] / width)
    wide, high = size[1] / scale, size[0] / scale
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, min(left + wide, width), min(top + high, height)


def fit_depth(depth: Float32[ndarray, "h w"], size: tuple[int, int]) -> Float32[ndarray, "h2 w2"]:
    """Crops and resizes depth like the pictures. A pixel takes the value at its centre: depth is never averaged."""
    left, top, right, bottom = fit_box(depth.shape[1], depth.shape[0], size)
    rows = top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]
    columns = left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]
    return depth[rows.astype(int)][:, columns.astype(int)]


def find_folders(root: Path, marker: str, levels: int = 2) -> list[Path]:
    """Returns folders that hold a file, at most `levels` below `root`; picture folders are not searched.

    Folders and files that begin with a dot do not count.
    """
    found = (path for level in range(levels + 1) for path in root.glob("*/" * level + marker))
    return sorted({path.parents[marker.count("/")] for path in found if not is_hidden(path, root)})


def image_files(
    paths: Sequence[Path], shape: Shape | None = None
) -> Callable[[Sequence[int]], Iterator[Image.Image]]:
    """Opens frames that are kept as one picture file each, as `PosedView` takes them.

    The result raises `ValueError`, naming the file, if one is missing or unreadable, or has not the camera's shape.
    """

    def frames(numbers: Sequence[int]) -> Iterator[Image.Image]:
        for number in numbers:
            try:
                with open_picture(paths[number]) as image:
                    upright = as_calibrated(image, str(paths[number]), shape)
                    check_shape(str(paths[number]), upright.size, shape)
                    yield _on_white(upright)
            except OSError as error:
                raise ValueError(f"{paths[number]}: expected a picture: {error}") from error

    return frames


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands():
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _read_view(
    view: PosedView, frames: Sequence[int], size: tuple[int, int]
) -> tuple[UInt8[ndarray, "t h w 3"], Float[ndarray, "3 3"]]:
    _check_camera(view)
    images, stored = [], set()
    for image in view.frames(frames):
        stored.add(image.size)
        width, height = image.size
        check_shape(view.name, image.size, view.shape)
        pixels = np.diag([width, height, 1.0]) @ view.intrinsics
        if view.distortion is not None:
            image = Image.fromarray(undistort(np.asarray(image), pixels, view.distortion))
        box = fit_box(width, height, size)
        resized = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)  # PIL filters when it shrinks
        images.append(np.asarray(resized))
    if len(stored) != 1 or len(images) != len(frames):
        raise ValueError(f"{view.name}: {len(images)} of {len(frames)} pictures, of sizes {sorted(stored)}")
    left, top, right, bottom = box
    scale = np.diag([size[1] / (right - left), size[0] / (bottom - top), 1.0])
    return np.stack(images), scale @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ pixels


def _read_depths(view: PosedView, frames: Sequence[int], size: tuple[int, int]) -> Float32[ndarray, "t h w"]:
    assert view.depths is not None
    depths = np.stack([fit_depth(depth, size) for depth in view.depths(frames)])
    return np.where(np.isfinite(depths) & (depths > 0), depths, 0).astype(np.float32)


def _check_camera(view: PosedView) -> None:
    rotation = view.c2w[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max() + abs(np.linalg.det(rotation) - 1)
    if not (np.isfinite(view.c2w).all() and error < ROTATION_TOLERANCE):
        raise ValueError(f"{view.name}: expected a rotation and a finite centre, got c2w {view.c2w.tolist()}")
    focal = view.intrinsics[[0, 1], [0, 1]]
    if not (np.isfinite(view.intrinsics).all() and (focal > 0).all()):
        raise ValueError(f"{view.name}: expected positive focal lengths, got {view.intrinsics.tolist()}")
