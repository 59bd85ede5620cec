"""Values of a camera in `transforms.json`, as nerfstudio, instant-ngp and NeRF's Blender scenes write them.

Source: https://docs.nerf.studio/quickstart/data_conventions.html, and nerfstudio's `undistort` of pictures for what the
coefficients mean: k1, k2, p1, p2, k3 are OpenCV's for perspective cameras, k1 to k4 its fisheye model's. k4 to k6 of a
perspective camera are OpenCV's only under COLMAP's name FULL_OPENCV. What is not used must be zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

BROWN = ("k1", "k2", "p1", "p2", "k3")  # in OpenCV's order
RATIONAL = (*BROWN, "k4", "k5", "k6")
FISHEYE = ("k1", "k2", "k3", "k4")
COEFFICIENTS = {
    "OPENCV": BROWN, "PINHOLE": BROWN, "SIMPLE_PINHOLE": BROWN, "SIMPLE_RADIAL": BROWN, "RADIAL": BROWN,
    "FULL_OPENCV": RATIONAL, "OPENCV_FISHEYE": FISHEYE,
}  # fmt: skip
ALL_COEFFICIENTS = (
    *RATIONAL, "s1", "s2", "s3", "s4", "tau_x", "tau_y", "b1", "b2", "skew", "distortion_params"
)  # fmt: skip
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
OTHER_CAMERAS = ("is_equirectangular", "is_latlong")  # flags of instant-ngp
FISHEYE_MODEL = "OPENCV_FISHEYE"
Values = Mapping[str, object]


class Pinhole(NamedTuple):
    """A camera without distortion, in pixels of pictures of its own size; pixel centres are at +0.5.

    Attributes:
        focal: Focal lengths along x and y.
        centre: The principal point.
        width: Of its pictures.
        height: Of its pictures.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    width: float
    height: float


def merged(meta: Values, frame: Values) -> dict[str, object]:
    """Returns the values of one frame: its own, and for all others those of the file.

    A frame that says its focal length by an angle or in pixels does not get the other from the file.
    """
    own = {name for name in FOCAL if name in frame}
    shared = {name: value for name, value in meta.items() if name not in FOCAL or not own}
    partly = {name: meta[name] for name in FOCAL if own and name in meta and _unit(name) in map(_unit, own)}
    return {**shared, **partly, **frame}


def pinhole(values: Values, stored: Callable[[], tuple[int, int]]) -> Pinhole:
    """Returns the intrinsics of a frame.

    Without `fl_y`, pixels are square; without `cx` and `cy`, the principal point is the middle.

    Args:
        values: Values of one frame.
        stored: Returns width and height of the pictures that the file names; called where `w` or `h` is missing.

    Raises:
        ValueError: A value is missing, no number or out of range; names it.
    """
    width, height = stored() if "w" not in values or "h" not in values else (0, 0)
    w, h = _positive(values, "w", float(width)), _positive(values, "h", float(height))
    across = _focal(values, "x", w)
    if across is None:
        raise ValueError("expected a key 'fl_x' or 'camera_angle_x'")
    down = _focal(values, "y", h) or across
    return Pinhole((across, down), (_number(values, "cx", w / 2), _number(values, "cy", h / 2)), w, h)


def lens(values: Values) -> tuple[str, list[float]]:
    """Returns the camera model and its coefficients, in OpenCV's order; all zero is a pinhole, but for a fisheye.

    Raises:
        ValueError: The camera model is not known, or a coefficient that it does not use is not zero; names it.
    """
    model = str(values.get("camera_model", FISHEYE_MODEL if values.get("is_fisheye") else "OPENCV"))
    if model not in COEFFICIENTS or any(values.get(name) for name in OTHER_CAMERAS):
        raise ValueError(f"camera_model {model}, expected one of {sorted(COEFFICIENTS)}")
    names = COEFFICIENTS[model]
    for name in ALL_COEFFICIENTS:
        if name not in names and _is_set(values.get(name)):
            raise ValueError(
                f"{name} is {values[name]}, but camera_model {model} does not use it; expected 0"
            )
    return model, [_number(values, name, 0.0) for name in names]


def _focal(values: Values, axis: str, side: float) -> float | None:
    """Returns a focal length in pixels, from pixels or else from the full field of view in radians."""
    name, angle = f"fl_{axis}", f"camera_angle_{axis}"
    if values.get(name) is not None:
        return _positive(values, name, 0.0)
    if values.get(angle) is None:
        return None
    view = _positive(values, angle, 0.0)
    if view >= math.pi:
        raise ValueError(f"{angle} is {view}, expected radians below pi")
    return side / 2 / math.tan(view / 2)


def _unit(name: str) -> str:
    return name.rpartition("_")[0]


def _is_set(value: object) -> bool:
    """Tells whether a coefficient, or one of a list of them, is something else than 0."""
    return any(map(_is_set, value)) if isinstance(value, list) else value not in (None, 0)


def _positive(values: Values, name: str, default: float) -> float:
    number = _number(values, name, default)
    if number <= 0:
        raise ValueError(f"{name} is {number}, expected a number above 0")
    return number


def _number(values: Values, name: str, default: float) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a number")
    return float(value)
