"""One scene to be generated: the grid with its given frames, from a fixed-view video, a freeze-time video, or both."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.middle_cut import Size, height_and_width, middle_part, read_middles
from datamodules.reference_checks import SharedFrame, check_references
from scene4d.latent_grid import latent_frames, video_frames, whole_frames
from scene4d.references import References, reference_mask
from scene4d.types import SceneBatch
from scene4d.video_files import frame_times
from scene4d.video_files.frames import read_orientation

FEWEST_FRAMES = video_frames(2)  # one latent frame behind the first: the shortest video that moves

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceScene:
    """What a user gives of one scene.

    Attributes:
        key: Name of the scene.
        fixed_view: Video file of the moving scene by one camera that stands still; None if it is to be generated.
        freeze_time: Video file of the first moment, one frame per view; None if it is to be generated.
        prompt: Caption; may be empty where a video is given.
    """

    key: str
    fixed_view: str | None = None
    freeze_time: str | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        if not (self.fixed_view or self.freeze_time or self.prompt.strip()):
            raise ValueError("nothing is given: expected fixed_view, freeze_time or, without both, a prompt")

    @property
    def references(self) -> References:
        """Which of the two videos are given."""
        if self.fixed_view and self.freeze_time:
            return "both"
        return "fixed_view" if self.fixed_view else "freeze_time" if self.freeze_time else "none"


@dataclass(frozen=True)
class GridReader:
    """Reads scenes as grids; see `ReferenceVideos` for the fields.

    Raises:
        ValueError: A number is out of range; names it.
    """

    size: Size
    frames: int
    views: int
    fps: float
    shared_frame: SharedFrame

    def __post_init__(self) -> None:
        known = get_args(SharedFrame)
        if self.shared_frame not in known:
            raise ValueError(f"shared_frame must be one of {', '.join(known)}, got {self.shared_frame!r}")
        height_and_width(self.size)
        latent_frames(self.frames)
        if self.frames < FEWEST_FRAMES:
            raise ValueError(f"frames must be at least {FEWEST_FRAMES}, got {self.frames}")
        if self.views < 2:
            raise ValueError(f"views must be at least 2, got {self.views}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be positive, got {self.fps}")

    def read(self, scene: ReferenceScene) -> SceneBatch:
        """Reads a scene as a batch of one grid, white where frames are to be generated.

        Raises:
            ValueError: A video is missing, unreadable or too short, or the two contradict each other; names it.
        """
        times, row, column = np.arange(self.frames) / self.fps, None, None
        if scene.fixed_view:
            times = self._moments(scene.fixed_view)
            row = self._row(scene.fixed_view, times)
        if scene.freeze_time:
            column = self._column(scene.freeze_time)
        if row is not None and column is not None:
            check_references(row, column, (str(scene.fixed_view), str(scene.freeze_time)), self.shared_frame)
        views = self.views if column is None else len(column)
        images = torch.ones(1, views, len(times), 3, *height_and_width(self.size))
        if column is not None:
            images[0, :, 0] = column
        if row is not None:
            images[0, 0] = row
        return SceneBatch(
            images=images, cameras=None, frame_times=torch.from_numpy(times)[None].float(),
            reference=reference_mask(scene.references, views, len(times))[None], source=["user"], keys=[scene.key],
            prompts=[scene.prompt] if scene.prompt.strip() else [],
        )  # fmt: skip

    def check(self, scene: ReferenceScene) -> None:
        """Looks whether the videos of a scene are long enough and their first frames can be decoded.

        Raises:
            ValueError: A video is missing, unreadable or too short; names it.
        """
        if scene.fixed_view:
            self._moments(scene.fixed_view)
            read_orientation(scene.fixed_view)
        if scene.freeze_time:
            shown_times(scene.freeze_time)
            read_orientation(scene.freeze_time)

    def _row(self, path: str, times: Float[np.ndarray, " t"]) -> Float[Tensor, "t 3 h w"]:
        row = read_middles(path, times.tolist(), self.size)
        self._log(path, f"{len(times)} frames, nearest in time to {self.fps:g} a second")
        return row

    def _column(self, path: str) -> Float[Tensor, "v 3 h w"]:
        """At most `views` frames, evenly spaced from the first to the last."""
        shown = shown_times(path)
        spread = torch.linspace(0, len(shown) - 1, min(self.views, len(shown))).round().long()
        column = read_middles(path, shown[spread.numpy()].tolist(), self.size)
        self._log(path, f"{len(spread)} of {len(shown)} frames, evenly spaced")
        return column

    def _moments(self, path: str) -> Float[np.ndarray, " t"]:
        """Times of those frames of the fixed-view video that come nearest to 0, 1 / fps, 2 / fps, ..."""
        times = shown_times(path, until=self.frames / self.fps)
        seconds = 2 * times[-1] - times[-2]  # the last frame stays as long as the one before
        shown = math.ceil(seconds * self.fps - 0.05)  # some files round their times to milliseconds
        if shown < FEWEST_FRAMES:
            raise ValueError(
                f"video {path!r} lasts {seconds:.2f} s: {FEWEST_FRAMES} frames, the fewest, at {self.fps:g} a second "
                f"need more than {(FEWEST_FRAMES - 1) / self.fps:.2f} s"
            )
        wanted = np.arange(min(self.frames, whole_frames(shown))) / self.fps
        nearest = np.abs(times - wanted[:, None]).round(6).argmin(1)  # the earlier of two that are as near
        if not nearest.any():
            raise ValueError(
                f"video {path!r} shows its second frame after {times[1]:.3g} s: {len(wanted)} frames at {self.fps:g} a "
                "second would all be its first one"
            )
        return times[nearest]

    def _log(self, path: str, taken: str) -> None:
        """Says what became of a video."""
        (height, width), (h, w) = read_orientation(path).size, height_and_width(self.size)
        rows, columns = middle_part(height, width, self.size)
        log.info(
            "%s: %s; of the upright %d x %d pixels (height x width) the middle %d x %d are scaled to %d x %d", path,
            taken, height, width, rows.stop - rows.start, columns.stop - columns.start, h, w,
        )  # fmt: skip


def shown_times(path: str, until: float = math.inf) -> Float[np.ndarray, " t"]:
    """When a video shows its frames, in seconds from its first one.

    Args:
        path: The video.
        until: Only one frame that is shown later is read.

    Raises:
        ValueError: Missing, unreadable or less than 2 frames; names it.
    """
    times = frame_times(path, until)
    if len(times) < 2:
        raise ValueError(f"{path!r} has 1 frame, a video has at least 2")
    return times
