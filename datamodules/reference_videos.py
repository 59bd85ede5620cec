"""One grid from a user's own two videos, and grids that were written as files: for prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from scene4d.grid_format import read_grid
from scene4d.sample_format import decode_video
from scene4d.types import SceneBatch


class ReferenceVideos(LightningDataModule):
    """A grid to be generated: row 0 is a fixed-view video, column 0 a freeze-time video.

    Args:
        fixed_view: Video file; what moves, seen by one camera that stands still. Its first 4k + 1 frames count.
        freeze_time: Video file; the first moment of the fixed-view video, one frame a view. Its first frame
            should show what the fixed-view video's first frame shows.
        size: Height and width of the grid; the middle square of every frame is scaled to it. A multiple of 8.
        frames: At most this many frames of the fixed-view video, 4k + 1.
        views: At most this many frames of the freeze-time video, evenly spaced.
        key: Name of the scene; names its output folder.
    """

    def __init__(
        self,
        fixed_view: str,
        freeze_time: str,
        size: int = 64,
        frames: int = 17,
        views: int = 4,
        key: str = "scene",
    ) -> None:
        super().__init__()
        if size < 8 or size % 8:
            raise ValueError(f"size must be a multiple of 8 (the autoencoder's stride), got {size}")
        if frames < 1 or frames % 4 != 1:
            raise ValueError(f"frames must be 4k + 1 (1, 5, 9, 13, 17, ...), got {frames}")
        self.fixed_view, self.freeze_time, self.key = fixed_view, freeze_time, key
        self.size, self.frames, self.views = size, frames, views
        self.batch: SceneBatch | None = None

    def setup(self, stage: str) -> None:
        """Reads both videos.

        Raises:
            ValueError: A video is missing or unreadable, or has too few frames; names it.
        """
        row = read_square_video(self.fixed_view, self.size)
        column = read_square_video(self.freeze_time, self.size)
        times = min(self.frames, 1 + (len(row) - 1) // 4 * 4)
        if times < 5:
            raise ValueError(f"{self.fixed_view!r} has {len(row)} frames, at least 5 are needed")
        if len(column) < 2:
            raise ValueError(f"{self.freeze_time!r} has {len(column)} frames, at least 2 views are needed")
        views = torch.linspace(0, len(column) - 1, min(self.views, len(column))).round().long()
        images = torch.ones(1, len(views), times, 3, self.size, self.size)
        images[0, :, 0], images[0, 0] = column[views], row[:times]
        reference = torch.zeros(1, len(views), times, dtype=torch.bool)
        reference[:, 0], reference[:, :, 0] = True, True
        self.batch = SceneBatch(
            images=images, cameras=None, frame_times=torch.arange(times)[None] / 12.0, reference=reference,
            source=["user"], keys=[self.key],
        )  # fmt: skip

    def predict_dataloader(self) -> DataLoader:
        """One batch of one scene."""
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]  # a list will do


class GridFiles(LightningDataModule):
    """Grids that `GridExport` wrote, for the reconstruction to read: every frame is an input.

    Args:
        paths: `grid.safetensors` files.
        frame_stride: Take every n-th timestep.
    """

    def __init__(self, paths: list[str], frame_stride: int = 1) -> None:
        super().__init__()
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
        """One batch a file."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def read_square_video(path: str, size: int) -> Float[Tensor, "t 3 h w"]:
    """Frames of a video in [0, 1]: the middle square, scaled to `size` with antialiasing.

    Raises:
        ValueError: Missing or unreadable; names it.
    """
    if not Path(path).is_file():
        raise ValueError(f"video {path!r} does not exist")
    try:
        frames = decode_video(Path(path).read_bytes())
    except Exception as error:  # PyAV raises many types
        raise ValueError(f"video {path!r} cannot be decoded: {error}") from error
    t, h, w, _ = frames.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = np.ascontiguousarray(frames[:, top : top + side, left : left + side])
    images = torch.from_numpy(square).movedim(-1, 1).float() / 255
    if side == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )
