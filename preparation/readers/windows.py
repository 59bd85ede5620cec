"""Readers take windows of a camera path as views, or clips of synchronized videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from preparation.readers.posed_views import PosedView, assemble
from scene4d.sample_format import SceneSample

Value = TypeVar("Value")
Rig = TypeVar("Rig", bound="RigClips")


def option(default: Value, text: str) -> Value:
    """Declares a field of a reader that is also an option of its command, with the type of the default."""
    return field(default=default, metadata={"help": text})


def spread_windows(count: int, length: int, stride: int, number: int, what: str) -> list[range]:
    """Spreads at most `number` windows of `length` items with a stride evenly over `count` items.

    Raises:
        ValueError: Not even one window fits; says how many `what` there are.
    """
    last = count - (length - 1) * stride - 1
    if last < 0:
        raise ValueError(f"has {count} {what}, expected at least {(length - 1) * stride + 1}")
    steps = min(number, last + 1)
    starts = [round(k * last / (steps - 1)) if steps > 1 else last // 2 for k in range(steps)]
    return [range(start, start + (length - 1) * stride + 1, stride) for start in starts]


@dataclass(frozen=True)
class PathWindows:
    """A camera path through a scene that does not move; each window becomes the views of one still sample.

    Attributes:
        size: Height and width of a view in pixels.
        views: Views per window.
        view_stride: Pictures of the path from one view to the next.
        windows: Largest number of windows per scene.
    """

    size: tuple[int, int] = option((256, 256), "height x width, or one number, of a view in pixels")
    views: int = option(8, "views per window")
    view_stride: int = option(1, "take every n-th picture of the path")
    windows: int = option(1, "largest number of windows per scene, spread evenly over the path")

    def stills(self, path: Sequence[PosedView]) -> Iterator[SceneSample]:
        """Yields samples named by the place of their first view on the path.

        Raises:
            ValueError: The path is too short or a view cannot be used.
        """
        for window in spread_windows(len(path), self.views, self.view_stride, self.windows, "views"):
            yield assemble(f"{window[0]:05d}", [path[k] for k in window], [0], self.size)


@dataclass(frozen=True)
class VideoClips:
    """Synchronized videos of fixed cameras; each clip in time becomes one sample with all cameras.

    Attributes:
        size: Height and width of a view in pixels.
        frames: Frames per clip.
        frame_stride: Frames of the video from one frame of a clip to the next.
        clips: Largest number of clips per scene.
    """

    size: tuple[int, int] = option((256, 256), "height x width, or one number, of a view in pixels")
    frames: int = option(29, "frames per clip; 4k + 1 suits the autoencoders")
    frame_stride: int = option(1, "take every n-th frame")
    clips: int = option(1, "largest number of clips per scene, spread evenly in time")

    def grids(self, views: Sequence[PosedView], stored: int, fps: float) -> Iterator[SceneSample]:
        """Yields samples named by their first frame.

        Args:
            views: Cameras of the scene.
            stored: Number of frames of every video.
            fps: Frames per second of the videos.

        Raises:
            ValueError: The videos are too short or a view cannot be used.
        """
        for clip in spread_windows(stored, self.frames, self.frame_stride, self.clips, "frames"):
            yield assemble(f"{clip[0]:05d}", views, clip, self.size, fps / self.frame_stride)


@dataclass(frozen=True)
class RigClips(VideoClips):
    """Clips of a rig whose cameras have names, which the samples keep.

    Attributes:
        skip: Cameras that are left out.
        hold_out: Cameras that are left out of training and kept for validation.
    """

    skip: str = option("", "cameras to leave out: names or shell patterns, separated by commas")
    hold_out: str = option("", "cameras that --split train leaves out and --split val keeps, as --skip")

    def for_split(self: Rig, split: str) -> Rig:
        """Returns the reader of one split: that of `train` also skips the cameras that are held out."""
        if split != "train" or not self.hold_out:
            return self
        return replace(self, skip=",".join(filter(None, (self.skip, self.hold_out))), hold_out="")

    def kept(self, names: Sequence[str], place: str) -> list[str]:
        """Returns the names of the cameras that are read, in their order.

        Args:
            names: All cameras of a scene.
            place: Scene that errors name.

        Raises:
            ValueError: There is no such camera as one to leave out or hold out, or none is left.
        """
        without(names, self.hold_out, place)
        return without(names, self.skip, place)


def without(names: Sequence[str], patterns: str, place: str) -> list[str]:
    """Leaves out the names that match one of the patterns, which are separated by commas.

    Raises:
        ValueError: A pattern without wildcards is none of the names, or no name is left.
    """
    left_out = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in left_out:
        if not set(pattern) & set("*?[") and pattern not in names:
            raise ValueError(f"{place}: no camera {pattern!r} to leave out, expected one of {list(names)}")
    kept = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in left_out)]
    if not kept:
        raise ValueError(f"{place}: leaving out {patterns!r} leaves no camera of {list(names)}")
    return kept
