"""Writes predicted grids: a contact sheet that plays, and the file that the reconstruction reads."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L

from callbacks.scene_folders import SceneFolders
from scene4d.grid_format import write_grid
from scene4d.types import SceneBatch
from scene4d.visualization import grid_video, write_video

log = logging.getLogger(__name__)


class GridExport(L.Callback):
    """Writes `grid.mp4` and `grid.safetensors` of every predicted grid to `<output>/<key>/`.

    A second grid with the same key gets `<output>/<key>_2/`, see `SceneFolders`.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; False is for runs that predict one scene.
        enlarge: How many times every pixel of the video is repeated.
        limit: The largest number of scenes that are written.
    """

    def __init__(self, output: str, subfolders: bool = True, enlarge: int = 3, limit: int = 1000) -> None:
        self.enlarge, self.limit = enlarge, limit
        self.folders = SceneFolders(output, subfolders)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self.folders.start(trainer)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves nothing but the scenes."""
        self.folders.end(trainer)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the scenes of one batch.

        Raises:
            ValueError: The prediction is no `SceneBatch`, or a second scene would overwrite the first.
        """
        if not isinstance(outputs, SceneBatch):
            raise ValueError(f"GridExport needs grids, predict_step returned {type(outputs).__name__}")
        for index in range(len(outputs.images)):
            if len(self.folders.written) < self.limit:
                key = outputs.keys[index] if outputs.keys else f"{len(self.folders.written):04d}"
                self.write(self.folders.next(trainer, key), outputs, index)

    def write(self, folder: Path, grid: SceneBatch, index: int) -> None:
        """Writes one scene; `grid.safetensors` comes last and tells that the scene is complete."""
        frames = grid_video(grid.images[index], grid.reference[index])
        write_video(folder / "grid.mp4", frames, frame_rate(grid.frame_times[index].tolist()), self.enlarge)
        write_grid(folder / "grid.safetensors", grid, index)
        log.info("grid of %s -> %s", grid.keys[index] if grid.keys else index, folder / "grid.mp4")


def frame_rate(frame_times: list[float], default: float = 12.0) -> float:
    """Frames per second of evenly spaced scene times in seconds; `default` for a single or unknown time."""
    if len(frame_times) < 2 or not frame_times[-1] > frame_times[0]:
        return default
    return (len(frame_times) - 1) / (frame_times[-1] - frame_times[0])
