"""Real lenses: OpenCV's distortion model, and images without distortion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

Distortion = Callable[[Float[ndarray, "n 2"]], Float[ndarray, "n 2"]]
ROWS = 128  # rows of an image that are undistorted at a time, to keep memory low


def distort(rays: Float[ndarray, "n 2"], coefficients: Sequence[float]) -> Float[ndarray, "n 2"]:
    """Moves ideal image points at z = 1 to where the lens puts them.

    Source: OpenCV, "Camera Calibration and 3D Reconstruction", detailed description.

    Args:
        rays: x / z and y / z of every point.
        coefficients: k1, k2 (radial), p1, p2 (tangential).
    """
    k1, k2, p1, p2 = coefficients
    x, y = rays[:, 0], rays[:, 1]
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        ],
        axis=1,
    )


def undistort(
    image: UInt8[ndarray, "h w 3"], intrinsics: Float[ndarray, "3 3"], distortion: Distortion
) -> UInt8[ndarray, "h w 3"]:
    """Returns the image of a pinhole camera with the same intrinsics; outside the original its edge is repeated.

    Args:
        image: Image as the lens saw it.
        intrinsics: Intrinsics in pixels, pixel centres at +0.5.
        distortion: Moves ideal image points at z = 1 to where the lens puts them.
    """
    height, width = image.shape[:2]
    result = np.empty_like(image)
    for top in range(0, height, ROWS):
        rows = np.arange(top, min(top + ROWS, height)) + 0.5
        pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, rows), axis=-1).reshape(-1, 2)
        rays = (pixels - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]]
        places = distortion(rays) @ intrinsics[:2, :2].T + intrinsics[:2, 2]
        result[top : top + len(rows)] = np.round(bilinear(image, places)).reshape(len(rows), width, 3)
    return result


def bilinear(image: UInt8[ndarray, "h w 3"], places: Float[ndarray, "n 2"]) -> Float[ndarray, "n 3"]:
    """Interpolates values at pixel positions, with pixel centres at +0.5 and edges repeated."""
    limits = np.array(image.shape[1::-1]) - 1
    places = np.clip(places - 0.5, 0, limits).astype(np.float32)
    low = np.minimum(places.astype(np.int64), limits - 1)
    (fx, fy), (x, y) = (places - low).T[..., None], low.T
    top = image[y, x] * (1 - fx) + image[y, x + 1] * fx
    bottom = image[y + 1, x] * (1 - fx) + image[y + 1, x + 1] * fx
    return top * (1 - fy) + bottom * fy
