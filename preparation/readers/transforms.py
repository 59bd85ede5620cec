"""Cameras of `transforms.json` as the readers of posed views take them; see `scene4d.transforms_json`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from numpy import ndarray

from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import normalised_intrinsics
from preparation.rendering.lens import Distortion, distort, distort_fisheye
from scene4d.transforms_json import FISHEYE_MODEL, Values, lens, pinhole


def intrinsics(values: Values, stored: Callable[[], tuple[int, int]]) -> tuple[Float[ndarray, "3 3"], Shape]:
    """Returns intrinsics divided by the width and height, and the shape of the camera's pictures.

    Args:
        values: Values of one frame.
        stored: See `pinhole`.

    Raises:
        ValueError: A value is missing, no number or out of range; names it.
    """
    found = pinhole(values, stored)
    return normalised_intrinsics(*found), Shape.of(found.width, found.height)


def distortion(values: Values) -> Distortion | None:
    """Returns the distortion of the lens, or None for a pinhole.

    Raises:
        ValueError: See `lens`.
    """
    model, coefficients = lens(values)
    if model == FISHEYE_MODEL:
        return partial(distort_fisheye, coefficients=coefficients)
    return partial(distort, coefficients=coefficients) if any(coefficients) else None
