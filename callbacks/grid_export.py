"""Writes predicted grids: a contact sheet that plays, and the file that the reconstruction reads."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L

from scene4d.grid_format import write_grid
from scene4d.types import SceneBatch
from scene4d.visualization import grid_video, write_video

log = logging.getLogger(__name__)


class GridExport(L.Callback):
    """Writes `grid.mp4` and `grid.safetensors` of every predicted grid to `<output>/<key>/`.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; False is for runs that predict one scene.
        enlarge: How many times every pixel of the video is repeated.
        limit: The largest number of scenes that are written.
    """

    def __init__(self, output: str, subfolders: bool = True, enlarge: int = 3, limit: int = 1000) -> None:
        self.output, self.subfolders, self.enlarge, self.limit = output, subfolders, enlarge, limit
        self.written: list[str] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self.written = []

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
            if len(self.written) < self.limit:
                self.write(Path(trainer.default_root_dir) / self.output, outputs, index)

    def write(self, output: Path, grid: SceneBatch, index: int) -> None:
        """Writes one scene; `grid.safetensors` comes last and tells that the scene is complete."""
        key = grid.keys[index] if grid.keys else f"{len(self.written):04d}"
        folder = scene_folder(output, key, self.subfolders, self.written)
        frames = grid_video(grid.images[index], grid.reference[index])
        write_video(folder / "grid.mp4", frames, frame_rate(grid.frame_times[index].tolist()), self.enlarge)
        write_grid(folder / "grid.safetensors", grid, index)
        self.written.append(key)
        log.info("grid of %s -> %s", key, folder / "grid.mp4")


def scene_folder(output: Path, key: str, subfolders: bool, written: list[str]) -> Path:
    """Names the folder of one scene.

    Raises:
        ValueError: A second scene came, although there are no subfolders.
    """
    if not subfolders and written:
        raise ValueError(
            f"{output} already holds {written[0]!r}; set subfolders: true for more than one scene"
        )
    return output / key if subfolders else output


def frame_rate(frame_times: list[float], default: float = 12.0) -> float:
    """Frames per second of evenly spaced scene times in seconds; `default` for a single or unknown time."""
    if len(frame_times) < 2 or not frame_times[-1] > frame_times[0]:
        return default
    return (len(frame_times) - 1) / (frame_times[-1] - frame_times[0])
