"""Known cameras of synchronized views, from a `transforms.json` of nerfstudio's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.middle_cut import Size, height_and_width, middle_part
from scene4d.transforms_json import Pinhole, lens, merged, pinhole
from scene4d.types import Cameras

EQUAL = 1e-6  # of what two frames of one camera may differ by, beside one
SHAPE = 0.01  # of width over height, which rounding may change


def read_rig(
    path: str | Path, names: Sequence[str], shapes: Sequence[tuple[int, int]], size: Size
) -> Cameras:
    """Reads the cameras of a rig that stands still, one for each view.

    A frame of the file is that of the view whose name its `file_path` ends with (`images/cam2.png` and `cam2.mp4` for
    `cam2`), or whose folder it lies in (`cam2/0001.png`). Views may have any number of frames with the same camera.

    Args:
        path: The file; axes are OpenGL's (y up, z backward), pixels are those of `w` x `h`.
        names: Names of the views.
        shapes: Height and width of the pictures of each view, the right way up.
        size: Height and width of the grid, to which the middle of every picture is cut and scaled.

    Returns:
        Cameras `1 v` in the axes of OpenCV, intrinsics in pixels of the grid.

    Raises:
        ValueError: The file is unreadable, a view has no frame or a moving camera, its lens distorts, or its pictures
            have another shape than the camera's; names the file and the view.
    """
    try:
        frames = _frames(json.loads(Path(path).read_text()))
        found = [_camera(frames, name, shape, size) for name, shape in zip(names, shapes)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cameras {str(path)!r}: {_told(error)}") from error
    c2w, intrinsics = (torch.stack(list(part))[None] for part in zip(*found))
    return Cameras(c2w, intrinsics)


def _frames(meta: dict[str, Any]) -> list[tuple[PurePosixPath, dict[str, Any]]]:
    """The path and the values of every frame."""
    return [
        (PurePosixPath(str(frame["file_path"]).replace("\\", "/")), merged(meta, frame))
        for frame in meta["frames"]
    ]


def _camera(
    frames: Sequence[tuple[PurePosixPath, dict[str, Any]]], name: str, shape: tuple[int, int], size: Size
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """The one camera of a view."""
    own = [values for path, values in frames if name in (path.name, path.stem)]
    own = own or [values for path, values in frames if path.parent.name == name]
    if not own:
        raise ValueError(f"no frame has a file_path that names view {name!r}")
    cameras = [_read(values, name, shape, size) for values in own]
    first = cameras[0]
    for other in cameras[1:]:
        if any(not torch.allclose(x, y, rtol=EQUAL, atol=EQUAL) for x, y in zip(first, other)):
            raise ValueError(f"the frames of view {name!r} have different cameras, and a view has one")
    return first


def _read(
    values: dict[str, Any], name: str, shape: tuple[int, int], size: Size
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    height, width = shape
    matrix = torch.tensor(values["transform_matrix"], dtype=torch.float64)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ValueError(
            f"view {name!r}: transform_matrix has the shape {tuple(matrix.shape)}, expected (4, 4)"
        )
    model, coefficients = lens(values)
    if any(coefficients) or "FISHEYE" in model:
        raise ValueError(
            f"view {name!r}: its lens distorts ({model} {coefficients}); undistort the pictures first"
        )
    camera = pinhole(values, lambda: (width, height))
    if abs(camera.width / camera.height * height / width - 1) > SHAPE:
        raise ValueError(
            f"view {name!r}: its pictures are {width} x {height}, those of its camera {camera.width:g} x "
            f"{camera.height:g}; expected whole pictures, of any size"
        )
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = matrix[:3] * matrix.new_tensor([1.0, -1.0, -1.0, 1.0])
    return c2w.float(), _of_grid(camera, shape, size)


def _of_grid(camera: Pinhole, shape: tuple[int, int], size: Size) -> Float[Tensor, "3 3"]:
    """Intrinsics in pixels of the grid."""
    parts = middle_part(*shape, size)[::-1]  # columns, rows
    stored, given, wanted = (camera.width, camera.height), shape[::-1], height_and_width(size)[::-1]
    intrinsics = torch.eye(3, dtype=torch.float64)
    for k, part in enumerate(parts):
        scale = wanted[k] / (part.stop - part.start)
        intrinsics[k, k] = camera.focal[k] * given[k] / stored[k] * scale
        intrinsics[k, 2] = (camera.centre[k] * given[k] / stored[k] - part.start) * scale
    return intrinsics.float()


def _told(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"expected a key {error}"
    wrong = isinstance(error, (TypeError, AttributeError))
    return f"a value has another type than expected: {error}" if wrong else str(error)
