"""Cuts 2D videos into short square clips: reading, scene cuts, windows in time and crops in space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from scene4d.video_files import VideoInfo, read_frames

CUT_CHANGE = 0.1  # smallest share of pixels whose colour bin changes at a cut
CUT_RATIO = 4.0  # at a cut, at least this many times more pixels change than around it
MIN_MOTION = 0.6  # grey levels of 255, mean over a clip: below it nothing moves
MIN_CONTRAST = 10.0  # grey levels, standard deviation: below it nothing is seen
TRIES = 12
PREVIEW = 90  # pixels of the shorter side of the frames in which cuts are looked for


@dataclass(frozen=True)
class Window:
    """A clip takes the frames `start`, `start + stride`, ... of a video."""

    start: int
    stride: int


@dataclass(frozen=True)
class Video:
    """A video at a constant rate, upright and with square pixels; its frames are decoded when they are asked for.

    Attributes:
        path: The file.
        info: Its length and rate.
        short_side: Frames are shrunk (never enlarged) to a shorter side of so many pixels.
    """

    path: Path
    info: VideoInfo
    short_side: int

    def previews(self) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Decodes all frames, small and fast; one is in memory.

        Raises:
            ValueError: The file cannot be decoded; names it.
        """
        yield from read_frames(self.path, self.info.times(range(self.info.count)), PREVIEW)

    def frames(self, numbers: Sequence[int]) -> Iterator[UInt8[ndarray, "h w 3"]]:
        """Decodes frames with the given numbers, in rising order; one is in memory.

        Raises:
            ValueError: The file cannot be decoded; names it.
        """
        for pixels in read_frames(self.path, self.info.times(numbers)):
            yield _shrink(Image.fromarray(pixels), self.short_side)


def find_shots(frames: Iterable[UInt8[ndarray, "h w 3"]]) -> list[tuple[int, int]]:
    """Splits a video at its cuts into half-open ranges that together hold all frames, in order.

    At a cut, the joint colour histograms (8 bins per channel) of two neighbours differ much, and much more than
    those of the frames around. A fast pan does not look like that. Jumps of the exposure count as cuts.
    """
    change = np.array([np.abs(b - a).sum() / 2 for a, b in pairwise(map(_histogram, frames))])
    usual = [np.median(change[max(0, k - 3) : k + 4]) for k in range(len(change))]
    cuts = np.flatnonzero((change > CUT_CHANGE) & (change > CUT_RATIO * np.array(usual)))
    bounds = [0, *(int(k) + 1 for k in cuts), len(change) + 1]
    return list(zip(bounds[:-1], bounds[1:]))


def find_windows(
    shots: list[tuple[int, int]], fps: float, num_frames: int, target_fps: float
) -> list[Window]:
    """Returns all windows of `num_frames` frames inside one shot, at about `target_fps`.

    Frames are skipped evenly, by a whole stride. The stride is smaller in a short shot, so that the clip has more
    frames per second than `target_fps` rather than being absent.
    """
    windows = []
    for first, end in shots:
        stride = min(max(1, round(fps / target_fps)), (end - first - 1) // (num_frames - 1))
        if stride > 0:
            last = end - (num_frames - 1) * stride
            windows += [Window(start, stride) for start in range(first, last)]
    return windows


def cut_clips(
    video: Video, windows: list[Window], clips: int, num_frames: int, size: int, seed: int
) -> Iterator[tuple[Window, UInt8[ndarray, "t s s 3"]]]:
    """Cuts `clips` square clips, spread evenly over the windows, each at a random crop that shows motion.

    Args:
        video: The video to cut.
        windows: Windows from `find_windows`; without any, nothing is yielded.
        clips: Largest number of clips. A clip that finds no moving crop in some tries is left out.
        num_frames: Frames per clip.
        size: Side of a clip in pixels, area-filtered from a larger square wherever the video allows.
        seed: Seed of the crops.
    """
    rng = np.random.default_rng(seed)
    chosen = [windows[int((k + 0.5) / clips * len(windows))] for k in range(clips if windows else 0)]
    for window, frames in zip(chosen, _read_windows(video, chosen, num_frames)):
        for _ in range(TRIES):
            clip = _crop(frames, random_square(frames.shape[1], frames.shape[2], size, rng), size)
            if _shows_motion(clip):
                yield window, clip
                break


def _read_windows(
    video: Video, windows: list[Window], num_frames: int
) -> Iterator[UInt8[ndarray, "t h w 3"]]:
    """Yields the frames of windows whose starts rise; in memory are those of one, and of those that overlap it."""
    numbers = [range(w.start, w.start + num_frames * w.stride, w.stride) for w in windows]
    wanted = sorted(set().union(*numbers))
    decoded, kept = zip(wanted, video.frames(wanted)), dict[int, UInt8[ndarray, "h w 3"]]()
    for window in numbers:
        kept = {number: frame for number, frame in kept.items() if number >= window.start}
        while window[-1] not in kept:
            number, frame = next(decoded)
            kept[number] = frame
        yield np.stack([kept[number] for number in window])


def random_square(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a square box (left, top, right, bottom); a third of them are as large as fits, the others smaller.

    No side is below `size`, unless the frame itself is smaller.
    """
    largest = min(height, width)
    smallest = min(largest, size)
    side = largest if rng.random() < 1 / 3 else int(rng.integers(smallest, largest + 1))
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    return left, top, left + side, top + side


def _crop(
    frames: UInt8[ndarray, "t h w 3"], box: tuple[int, int, int, int], size: int
) -> UInt8[ndarray, "t s s 3"]:
    resized = (Image.fromarray(x).resize((size, size), Image.Resampling.BOX, box=box) for x in frames)
    return np.stack([np.asarray(x) for x in resized])


def _shows_motion(clip: UInt8[ndarray, "t s s 3"]) -> bool:
    values = clip.astype(np.float32)
    motion = np.abs(np.diff(values[::4], axis=0)).mean()
    return bool(motion > MIN_MOTION and values.std() > MIN_CONTRAST)


def _shrink(image: Image.Image, short_side: int) -> UInt8[ndarray, "h w 3"]:
    scale = short_side / min(image.size)
    if scale < 1:
        width, height = (max(short_side, round(x * scale)) for x in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image.convert("RGB"))


def _histogram(frame: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "512"]:
    bins = frame.reshape(-1, 3).astype(np.int64) >> 5
    counts = np.bincount(bins @ np.array([64, 8, 1]), minlength=512)
    return counts / len(bins)
