"""Length, rate and shape of a video, as what reads clips at a constant rate needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from scene4d.video_files.frames import frame_times, read_orientation
from scene4d.video_files.streams import nominal_rate
from scene4d.video_files.upright import Orientation


@dataclass(frozen=True)
class VideoInfo:
    """A video as frames at a constant rate: frame k is at k / `rate` seconds, for all k below `count`.

    Attributes:
        count: Number of frames.
        rate: Frames per second; of a variable rate the mean.
        orientation: Size of the frames, and how they are turned.
    """

    count: int
    rate: float
    orientation: Orientation

    def times(self, numbers: Sequence[int]) -> list[float]:
        """Seconds of some frames."""
        return [number / self.rate for number in numbers]


def video_info(path: str | Path) -> VideoInfo:
    """Reads the times of all frames, and the first frame.

    Raises:
        ValueError: Missing, unreadable or without a frame; names it.
    """
    times = frame_times(path)
    return VideoInfo(len(times), _constant_rate(times, nominal_rate(path)), read_orientation(path))


def _constant_rate(times: Float[np.ndarray, " t"], nominal: float) -> float:
    """The nominal rate, if it is never half a frame off and its last frame is within the video, otherwise the mean."""
    off = np.abs(times * nominal - np.arange(len(times)))
    if len(times) < 2 or times[-1] <= 0:
        return nominal
    end = 2 * times[-1] - times[-2]  # the last frame stays as long as the one before
    if off.max() < 0.5 and (len(times) - 1) / nominal <= end:
        return nominal
    return float((len(times) - 1) / times[-1])
