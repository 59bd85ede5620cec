"""Real lenses: OpenCV's distortion models, and images without distortion."""

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
        coefficients: k1, k2 (radial), p1, p2 (tangential), and then as far as there are any k3 and k4, k5, k6 (radial,
            the last three in the denominator).
    """
    k1, k2, p1, p2, k3, k4, k5, k6 = [*coefficients, *[0.0] * (8 - len(coefficients))]
    x, y = rays[:, 0], rays[:, 1]
    r2 = x**2 + y**2
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        ],
        axis=1,
    )


def distort_fisheye(rays: Float[ndarray, "n 2"], coefficients: Sequence[float]) -> Float[ndarray, "n 2"]:
    """Moves ideal image points at z = 1 to where a fisheye lens puts them.

    Source: OpenCV, "Fisheye camera model", without skew.

    Args:
        rays: x / z and y / z of every point.
        coefficients: k1 to k4, of the odd powers of the angle to the optical axis from the third on.
    """
    k1, k2, k3, k4 = coefficients
    radius = np.linalg.norm(rays, axis=1, keepdims=True)
    angle = np.arctan(radius)
    a2 = angle**2
    bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
    return rays * np.where(radius > 0, bent / np.where(radius > 0, radius, 1), 1)


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
