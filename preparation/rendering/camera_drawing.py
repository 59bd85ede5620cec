"""Draws cameras as pyramids, seen obliquely from above, so that a glance shows a wrong convention."""

from __future__ import annotations

import colorsys

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

ELEVATION_DEGREES = 35.0


def draw_cameras(
    c2w: Float[np.ndarray, "v 4 4"],
    intrinsics: Float[np.ndarray, "v 3 3"],
    image_size: tuple[int, int],
    size: int,
) -> UInt8[np.ndarray, "size size 3"]:
    """Draws all cameras of a scene into a square picture; view 0 is red, later views run through the hues.

    Args:
        c2w: OpenCV camera-to-world matrices.
        intrinsics: Intrinsics in pixels.
        image_size: Height and width of the images, pixels.
        size: Side of the picture, pixels.
    """
    depth = 0.4 * max(float(np.ptp(c2w[:, :3, 3], axis=0).max()), 1e-3)
    points = np.stack([_pyramid(*camera, image_size, depth) for camera in zip(c2w, intrinsics)])
    flat = points @ _oblique(c2w).T
    low, high = flat.min((0, 1)), flat.max((0, 1))
    scale = 0.86 * size / max(float((high - low).max()), 1e-6)
    flat = (flat - (low + high) / 2) * scale + size / 2
    picture = Image.new("RGB", (size, size), "white")
    canvas = ImageDraw.Draw(picture)
    for view in reversed(range(len(c2w))):
        red, green, blue = colorsys.hsv_to_rgb(0.8 * view / len(c2w), 1, 0.8)
        _draw_pyramid(canvas, flat[view], (int(255 * red), int(255 * green), int(255 * blue)))
    return np.asarray(picture)


def _pyramid(
    c2w: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    image_size: tuple[int, int],
    depth: float,
) -> Float[np.ndarray, "5 3"]:
    """Returns the camera centre and the image corners at `depth`, the two upper ones first, in the world."""
    h, w = image_size
    corners = np.array([[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1]], float)
    rays = depth * corners @ np.linalg.inv(intrinsics).T
    return np.concatenate([np.zeros((1, 3)), rays]) @ c2w[:3, :3].T + c2w[:3, 3]


def _oblique(c2w: Float[np.ndarray, "v 4 4"]) -> Float[np.ndarray, "2 3"]:
    """Returns the projection of the world to a picture (x right, y down), seen like the mean camera but from above."""
    up = -c2w[:, :3, 1].mean(0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    forward = c2w[:, :3, 2].mean(0)
    forward -= up * (forward @ up)
    if np.linalg.norm(forward) < 1e-3:  # cameras all around: any direction will do
        forward = c2w[0, :3, 2] - up * (c2w[0, :3, 2] @ up)
    forward /= max(float(np.linalg.norm(forward)), 1e-9)
    tilt = np.radians(ELEVATION_DEGREES)
    return np.stack([np.cross(forward, up), -forward * np.sin(tilt) - up * np.cos(tilt)])


def _draw_pyramid(
    canvas: ImageDraw.ImageDraw, points: Float[np.ndarray, "5 2"], color: tuple[int, int, int]
) -> None:
    centre, *corners = [(float(x), float(y)) for x, y in points]
    for corner in corners:
        canvas.line([centre, corner], fill=color)
    canvas.line([*corners, corners[0]], fill=color)
    canvas.line([corners[0], corners[1]], fill=color, width=3)  # the upper edge
