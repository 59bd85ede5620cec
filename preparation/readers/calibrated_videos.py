"""Videos of calibrated cameras: one clock for all of them, and cameras that turn with their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from scene4d.video_files import Orientation, VideoInfo, read_frames

ROUNDED = 0.05  # frames; some files round their times to milliseconds


def common_clock(videos: Sequence[VideoInfo]) -> tuple[int, float]:
    """Returns how many frames all videos have at the rate of the slowest, and that rate in frames per second.

    Synchronized videos begin at the same moment.
    """
    rate = min(video.rate for video in videos)
    return min(int(video.count * rate / video.rate + ROUNDED) for video in videos), rate


def video_file(path: Path, rate: float) -> Callable[[Sequence[int]], Iterator[Image.Image]]:
    """Opens frames that are kept as a video, upright and with square pixels; frame k is at k / `rate` seconds.

    The result raises `ValueError`, naming the file, if it cannot be decoded or is too short.
    """

    def frames(numbers: Sequence[int]) -> Iterator[Image.Image]:
        yield from map(Image.fromarray, read_frames(path, (number / rate for number in numbers)))

    return frames


def upright_camera(
    c2w: Float[ndarray, "4 4"], intrinsics: Float[ndarray, "3 3"], video: Orientation
) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """Returns the camera of the upright frames, with intrinsics divided by their width and height.

    A camera is taken for that of the upright frames, as most programs extract them, unless its shape is that of the
    stored ones: then it is turned with them.

    Args:
        c2w: OpenCV camera-to-world matrix.
        intrinsics: Intrinsics divided by width and height, of square pixels.
        video: How the video is turned.

    Raises:
        ValueError: The stored frames are mirrored, and their camera would be, too.
    """
    if not is_of_stored(intrinsics[1, 1] / intrinsics[0, 0], video):
        return c2w, intrinsics
    height, width = video.size
    pixels = np.diag([video.width, video.height, 1.0]) @ intrinsics
    c2w, pixels = turned_camera(c2w, pixels, video)
    return c2w, np.diag([1 / width, 1 / height, 1.0]) @ pixels


def is_of_stored(aspect: float, video: Orientation) -> bool:
    """Tells by the width over the height of a camera's pictures whether it belongs to the stored frames."""
    stored, (height, width) = video.width / video.height, video.size
    return abs(np.log(aspect / stored)) < abs(np.log(aspect / (width / height)))


def turned_camera(
    c2w: Float[ndarray, "4 4"], intrinsics: Float[ndarray, "3 3"], video: Orientation
) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "3 3"]]:
    """Turns a camera of the stored frames, with intrinsics in their pixels, into that of the upright ones.

    Raises:
        ValueError: The stored frames are mirrored.
    """
    if video.mirrored:
        raise ValueError("is mirrored by its display matrix, but its camera belongs to the stored frames")
    matrix, turn = video.matrix(), np.eye(4)
    turn[:2, :2] = matrix[:2, :2]
    return c2w @ turn.T, matrix @ intrinsics @ turn[:3, :3].T
