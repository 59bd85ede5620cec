"""How pictures of any shape come to the size of a grid: the one rule, for videos and photos alike.

The largest middle part of the shape of the grid is cut out of the upright picture and scaled with antialiasing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from scene4d.geometry.accepted_sizes import largest_middle
from scene4d.video_files import read_frames

Size = int | tuple[int, int]


def height_and_width(size: Size) -> tuple[int, int]:
    """Height and width in pixels; one number stands for both.

    Raises:
        ValueError: `size` is neither one nor two positive whole numbers.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size must be one positive number or (height, width), got {size}")
    return sides


def middle_part(height: int, width: int, size: Size) -> tuple[slice, slice]:
    """Rows and columns of the largest middle part of a picture that has the shape of `size`."""
    return largest_middle(height, width, height_and_width(size))


def cut_middle(pixels: UInt8[np.ndarray, "y x 3"], size: Size) -> Float[Tensor, "3 h w"]:
    """The middle of a picture in [0, 1], scaled with antialiasing to `size`."""
    rows, columns = middle_part(pixels.shape[0], pixels.shape[1], size)
    image = torch.from_numpy(np.ascontiguousarray(pixels[rows, columns])).movedim(-1, 0).float() / 255
    shape = height_and_width(size)
    if image.shape[1:] == shape:
        return image
    scaled = F.interpolate(image[None], shape, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)


def read_middles(path: str, times: Sequence[float], size: Size) -> Float[Tensor, "t 3 h w"]:
    """The frames of a video at some times in [0, 1], of each the middle, scaled with antialiasing to `size`.

    Args:
        path: The video.
        times: Seconds from its first frame, in rising order.
        size: Height and width.

    Raises:
        ValueError: Missing, unreadable or too short; names it.
    """
    return torch.stack([cut_middle(pixels, size) for pixels in read_frames(path, times)])
