"""Times and frames of a video, two frames in memory at a time.

Interlaced frames stay as they are stored, both fields in one picture.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from scene4d.video_files.colours import RGBFrames
from scene4d.video_files.streams import Shown, decoded, naming, packet_times
from scene4d.video_files.upright import Orientation, orientation

ROUNDED = 0.05  # frames; some files round their times to milliseconds
EQUAL = 1e-6  # seconds


def frame_times(path: str | Path, until: float = math.inf) -> Float[np.ndarray, " t"]:
    """Tells when a video shows its frames, in seconds from its first one; nothing is converted or kept.

    Args:
        path: The video.
        until: Only one frame that is shown later is read.

    Raises:
        ValueError: Missing, unreadable or without a frame; names it.
    """
    times = packet_times(path, until)
    if times is None:
        times = []
        for shown in decoded(path):
            times.append(shown.time)
            if shown.time > until:
                break
    if not times:
        raise ValueError(f"video {str(path)!r} has no frame")
    return np.array(times[: bisect_right(times, until) + 1])


def read_frames(
    path: str | Path, times: Iterable[float], short_side: int | None = None
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields for every wanted time the frame that is nearest to it: upright, with square pixels, in RGB.

    A frame comes more than once where the video has fewer frames than are wanted.

    Args:
        path: The video.
        times: Seconds from the first frame, in rising order.
        short_side: Frames are shrunk (never enlarged) to a shorter side of so many pixels, by a fast bilinear filter;
            None keeps their size.

    Raises:
        ValueError: Missing or unreadable, ends before the last time, or changes its size; names it.
    """
    rgb, number, way, size = RGBFrames(), -1, None, (0, 0)
    for shown in _nearest(path, times):
        if shown.number != number:
            with naming(path):
                if way is None:
                    way = orientation(shown.frame, shown.aspect)
                    size = _shrunk(way.width, way.height, short_side)
                pixels = way.apply(rgb.convert(shown.frame, *size))
            number = shown.number
        yield pixels


def _shrunk(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    scale = 1.0 if short_side is None else min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def read_orientation(path: str | Path) -> Orientation:
    """Reads how large a video is and how it is turned, off its first frame.

    Raises:
        ValueError: Missing, unreadable or without a frame; names it.
    """
    for shown in decoded(path):
        with naming(path):
            return orientation(shown.frame, shown.aspect)
    raise ValueError(f"video {str(path)!r} has no frame")


def _nearest(path: str | Path, times: Iterable[float]) -> Iterator[Shown]:
    """Yields the frame that is shown nearest to every time, the earlier of two that are as near."""
    wanted = iter(times)
    time, last, step = next(wanted, None), None, 0.0
    for shown in _of_one_size(path) if time is not None else ():
        while time is not None and time <= shown.time + EQUAL:
            yield shown if last is None or time - last.time > shown.time - time + EQUAL else last
            time = next(wanted, None)
        if time is None:
            return
        last, step = shown, 0.0 if last is None else shown.time - last.time
    while time is not None:
        end = (0.0 if last is None else last.time) + step  # the last frame stays as long as the one before
        if last is None or time > end + step * ROUNDED + EQUAL:
            raise ValueError(f"video {str(path)!r} ends at {end:.2f} s, expected a frame at {time:.2f} s")
        yield last
        time = next(wanted, None)


def _of_one_size(path: str | Path) -> Iterator[Shown]:
    size = None
    for shown in decoded(path):
        found = f"{shown.frame.width}x{shown.frame.height}"
        size = size or found
        if found != size:
            raise ValueError(
                f"video {str(path)!r} changes its size from {size} to {found} pixels at frame {shown.number}"
            )
        yield shown
