"""One grid from a user's own two videos, and grids that were written as files: for prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.reference_checks import SharedFrame, check_references
from scene4d.grid_format import read_grid
from scene4d.latent_grid import latent_frames, video_frames, whole_frames
from scene4d.types import SceneBatch
from scene4d.video_files import frame_times, read_frames

FEWEST_FRAMES = video_frames(2)  # one latent frame behind the first: the shortest video that moves


class ReferenceVideos(LightningDataModule):
    """Reads two videos as a grid to be generated: row 0 is a fixed-view video, column 0 a freeze-time video.

    The videos may have any format that PyAV decodes, any shape and any rate. Of every frame, turned as its display
    matrix says and with square pixels, the middle square is scaled to `size`.

    Args:
        fixed_view: Video file of the moving scene by one camera that stands still. It is read from its first frame
            on, at `fps` whatever its own rate: the frame nearest in time is taken, with the time it has in the file.
        freeze_time: Video file of the first moment of the fixed-view video, one frame per view. Its first frame
            should show the same as the first frame of the fixed-view video. Its rate does not matter.
        size: Height and width of the grid; autoencoders ask for multiples of 8.
        frames: Largest number of frames of the fixed-view video that are taken, 4k + 1. A shorter video gives fewer,
            at least 5.
        views: Largest number of frames of the freeze-time video that are taken, evenly spaced from its first to its
            last.
        fps: Frames per second that the model was trained on.
        key: Name of the scene, and of its output folder.
        shared_frame: What to do if the first frames of both videos differ. `refuse` warns below a PSNR of 24 dB and
            ends with an error below 12 dB, `warn` only warns, and `ignore` does not look. The first two also warn if
            the camera of the fixed-view video seems to move, or if the two videos seem to be swapped.

    Raises:
        ValueError: A number is out of range; names it.
    """

    def __init__(
        self,
        fixed_view: str,
        freeze_time: str,
        size: int = 64,
        frames: int = 17,
        views: int = 4,
        fps: float = 12.0,
        key: str = "scene",
        shared_frame: SharedFrame = "refuse",
    ) -> None:
        super().__init__()
        if shared_frame not in get_args(SharedFrame):
            raise ValueError(
                f"shared_frame must be one of {', '.join(get_args(SharedFrame))}, got {shared_frame!r}"
            )
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        latent_frames(frames)
        if frames < FEWEST_FRAMES:
            raise ValueError(f"frames must be at least {FEWEST_FRAMES}, got {frames}")
        if views < 2:
            raise ValueError(f"views must be at least 2, got {views}")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps must be positive, got {fps}")
        self.fixed_view, self.freeze_time, self.key = fixed_view, freeze_time, key
        self.size, self.frames, self.views, self.fps = size, frames, views, fps
        self.shared_frame = shared_frame
        self.batch: SceneBatch | None = None

    def setup(self, stage: str) -> None:
        """Reads both videos."""
        self.batch = self.read()

    def read(self) -> SceneBatch:
        """Reads both videos as a batch of one grid, white where frames are to be generated.

        Raises:
            ValueError: A video is missing, unreadable or too short, or the two contradict each other; names it.
        """
        times = self._moments()
        row = read_squares(self.fixed_view, times.tolist(), self.size)
        shown = shown_times(self.freeze_time)
        spread = torch.linspace(0, len(shown) - 1, min(self.views, len(shown))).round().long()
        column = read_squares(self.freeze_time, shown[spread.numpy()].tolist(), self.size)
        check_references(row, column, (self.fixed_view, self.freeze_time), self.shared_frame)
        images = torch.ones(1, len(column), len(row), 3, self.size, self.size)
        images[0, :, 0], images[0, 0] = column, row
        reference = torch.zeros(images.shape[:3], dtype=torch.bool)
        reference[:, 0], reference[:, :, 0] = True, True
        return SceneBatch(
            images=images, cameras=None, frame_times=torch.from_numpy(times)[None].float(), reference=reference,
            source=["user"], keys=[self.key],
        )  # fmt: skip

    def _moments(self) -> Float[np.ndarray, " t"]:
        """Times of those frames of the fixed-view video that come nearest to 0, 1 / fps, 2 / fps, ..."""
        times = shown_times(self.fixed_view, until=self.frames / self.fps)
        seconds = 2 * times[-1] - times[-2]  # the last frame stays as long as the one before
        shown = math.ceil(seconds * self.fps - 0.05)  # some files round their times to milliseconds
        if shown < FEWEST_FRAMES:
            raise ValueError(
                f"video {self.fixed_view!r} lasts {seconds:.2f} s: {FEWEST_FRAMES} frames, the fewest, at "
                f"{self.fps:g} a second need more than {(FEWEST_FRAMES - 1) / self.fps:.2f} s"
            )
        wanted = np.arange(min(self.frames, whole_frames(shown))) / self.fps
        nearest = np.abs(times - wanted[:, None]).round(6).argmin(1)  # the earlier of two that are as near
        return times[nearest]

    def predict_dataloader(self) -> DataLoader:
        """One batch of one scene."""
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]  # a list will do


def read_references(
    fixed_view: str,
    freeze_time: str,
    size: int = 64,
    frames: int = 17,
    views: int = 4,
    fps: float = 12.0,
    key: str = "scene",
    shared_frame: SharedFrame = "refuse",
) -> SceneBatch:
    """Reads two videos as the grid to be generated; arguments and errors are those of `ReferenceVideos`."""
    return ReferenceVideos(fixed_view, freeze_time, size, frames, views, fps, key, shared_frame).read()


class GridFiles(LightningDataModule):
    """Reads grids that `GridExport` wrote, for the reconstruction: every frame is an input.

    Args:
        paths: The `grid.safetensors` files.
        frame_stride: n takes every n-th timestep.

    Raises:
        ValueError: There is no path, or `frame_stride` is below 1.
    """

    def __init__(self, paths: list[str], frame_stride: int = 1) -> None:
        super().__init__()
        if not paths:
            raise ValueError("paths is empty: name at least one grid.safetensors")
        if frame_stride < 1:
            raise ValueError(f"frame_stride must be at least 1, got {frame_stride}")
        self.paths, self.frame_stride = paths, frame_stride
        self.batches: list[SceneBatch] = []

    def setup(self, stage: str) -> None:
        """Reads the files.

        Raises:
            ValueError: One is missing or no grid; names it.
        """
        self.batches = [self._read(path) for path in self.paths]

    def _read(self, path: str) -> SceneBatch:
        grid, step = read_grid(path), self.frame_stride
        images = grid.images[:, :, ::step]
        return SceneBatch(
            images=images, cameras=grid.cameras, frame_times=grid.frame_times[:, ::step],
            reference=torch.ones(images.shape[:3], dtype=torch.bool), source=grid.source, keys=grid.keys,
        )  # fmt: skip

    def predict_dataloader(self) -> DataLoader:
        """Returns one batch per file."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


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


def read_squares(path: str, times: Sequence[float], size: int) -> Float[Tensor, "t 3 h w"]:
    """The frames of a video at some times in [0, 1], of each the middle square, scaled to `size` with antialiasing.

    Args:
        path: The video.
        times: Seconds from its first frame, in rising order.
        size: Height and width.

    Raises:
        ValueError: Missing, unreadable or too short; names it.
    """
    return torch.stack([middle_square(pixels, size) for pixels in read_frames(path, times)])


def middle_square(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> Float[Tensor, "3 s s"]:
    """The middle square of a picture in [0, 1], scaled to `size` with antialiasing."""
    h, w, _ = pixels.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return _scaled(pixels[top : top + side, left : left + side], size)


def _scaled(square: UInt8[np.ndarray, "s s 3"], size: int) -> Float[Tensor, "3 h w"]:
    image = torch.from_numpy(np.ascontiguousarray(square)).movedim(-1, 0).float() / 255
    if len(square) == size:
        return image
    scaled = F.interpolate(image[None], (size, size), mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)
