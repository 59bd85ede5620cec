"""How stored frames are turned, mirrored and stretched to be seen: display matrix and aspect of the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Shaped

from scene4d.video_files.pyav import av

SQUARE = 0.005  # pixels whose sides differ by less are square: cameras write 3201:3200
WIDEST = 8  # times as wide as high, or the other way round; beyond, the file is wrong


@dataclass(frozen=True)
class Orientation:
    """The way from stored to upright pixels.

    Attributes:
        width: Width of the stored frame, its pixels made square.
        height: Height of the stored frame, its pixels made square.
        right: Upright (x, y) direction of a step to the right in the stored frame.
        down: Upright (x, y) direction of a step down in the stored frame.
    """

    width: int
    height: int
    right: tuple[int, int] = (1, 0)
    down: tuple[int, int] = (0, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright frame."""
        return (self.height, self.width) if self.right[0] else (self.width, self.height)

    @property
    def mirrored(self) -> bool:
        """Whether no turn alone makes the stored frame upright."""
        return self.right[0] * self.down[1] - self.right[1] * self.down[0] < 0

    def apply(self, pixels: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "h2 w2 c"]:
        """Turns and mirrors a stored frame; nothing is copied."""
        across, along = sum(self.right), sum(self.down)
        if not self.right[0]:
            pixels, across, along = pixels.swapaxes(0, 1), along, across
        return pixels[::along, ::across]

    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """Takes stored pixel coordinates (of square pixels) to upright ones."""
        matrix, (height, width) = np.eye(3), self.size
        matrix[:2, 0], matrix[:2, 1] = self.right, self.down
        matrix[0, 2] = width * (matrix[0, :2].sum() < 0)
        matrix[1, 2] = height * (matrix[1, :2].sum() < 0)
        return matrix


def orientation(frame: av.VideoFrame, aspect: Fraction | None) -> Orientation:
    """Reads the display matrix of a frame, to the nearest quarter turn.

    Args:
        frame: First frame of a video.
        aspect: Width over height of its pixels; None or 0 is square.

    Raises:
        ValueError: The aspect cannot be true.
    """
    width, height = square_pixels(frame.width, frame.height, aspect)
    if "DISPLAYMATRIX" not in frame.side_data:
        return Orientation(width, height)
    matrix = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]  # PyAV's stub lists one type
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2]  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        return Orientation(width, height, (0, _sign(b)), (_sign(c), 0))
    return Orientation(width, height, (_sign(a), 0), (0, _sign(d)))


def square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Returns the width and height of a frame with square pixels: the shorter side of a pixel is stretched.

    Raises:
        ValueError: The aspect cannot be true.
    """
    ratio = float(aspect or 1)
    if not 1 / WIDEST <= ratio <= WIDEST:
        raise ValueError(f"its pixels are {aspect} times as wide as high, expected 1/{WIDEST} to {WIDEST}")
    if abs(ratio - 1) < SQUARE:
        return width, height
    return (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))


def _sign(value: float) -> int:
    return -1 if value < 0 else 1
