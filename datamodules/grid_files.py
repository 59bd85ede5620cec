"""Grids that were written as files: input of the reconstruction."""

from __future__ import annotations

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from scene4d.grid_format import read_grid
from scene4d.types import SceneBatch


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
