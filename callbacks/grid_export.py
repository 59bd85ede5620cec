"""Writes predicted grids: contact sheets, videos of every view and time, the file that the reconstruction reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from jaxtyping import Bool, Float
from torch import Tensor

from callbacks.scene_folders import SceneFolders
from scene4d.grid_format import write_grid
from scene4d.types import SceneBatch
from scene4d.visualization import (
    fitting_enlargement,
    grid_video,
    still_sheet,
    to_uint8,
    write_png,
    write_video,
)

log = logging.getLogger(__name__)
VIEWS_A_SECOND = 4


class GridExport(L.Callback):
    """Writes every predicted grid to `<output>/<key>/`.

    `grid.safetensors` holds the grid for the reconstruction. `grid.mp4` plays all views side by side, and `grid.png`
    shows one row per view and one column per time, at most 9; given frames have an outline. `views/view_00.mp4` and
    so on hold one view over time, `times/time_000.mp4` and so on all views of one time, both as they were generated.
    A second grid with the same key gets `<output>/<key>_2/`, see `SceneFolders`.

    Args:
        output: The folder, relative to the trainer's default_root_dir.
        subfolders: Whether every scene gets a folder of its own; None means if the data has more than one scene.
        enlarge: How many times every pixel of `grid.mp4` and `grid.png` is repeated; None chooses 1 to 3 times so
            that they are at most 1280 pixels high and wide where they can be.
        limit: The largest number of scenes that are written, by all ranks together.
        sheets: Whether to write `grid.mp4` and `grid.png`.
        view_videos: Whether to write one video per view.
        time_videos: Whether to write one video per time, which shows 4 views a second.

    Raises:
        ValueError: `enlarge` is below 1.
    """

    def __init__(
        self,
        output: str,
        subfolders: bool | None = True,
        enlarge: int | None = None,
        limit: int = 1000,
        sheets: bool = True,
        view_videos: bool = True,
        time_videos: bool = True,
    ) -> None:
        if enlarge is not None and enlarge < 1:
            raise ValueError(f"enlarge must be at least 1, got {enlarge}")
        self.enlarge, self.limit = enlarge, limit
        self.sheets, self.view_videos, self.time_videos = sheets, view_videos, time_videos
        self.folders = SceneFolders(output, subfolders)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs.

        Raises:
            ValueError: There are no subfolders for more than one batch.
        """
        self.folders.start(trainer, self.limit)

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
        most = self.folders.share(trainer, self.limit)
        for index in range(len(outputs.images)):
            if len(self.folders.written) < most and not self.folders.is_repeated(batch, index):
                key = outputs.keys[index] if outputs.keys else f"{len(self.folders.written):04d}"
                self.write(self.folders.next(trainer, key), outputs, index)

    def write(self, folder: Path, grid: SceneBatch, index: int) -> None:
        """Writes one scene; `grid.safetensors` comes last and tells that the scene is complete."""
        images, reference = grid.images[index], grid.reference[index]
        fps = frame_rate(grid.frame_times[index].tolist())
        (folder / "grid.safetensors").unlink(missing_ok=True)  # an earlier run's would vouch for half a scene
        if self.sheets:
            self._write_sheets(folder, images, reference, fps)
        views, times = images.unbind(0), images.unbind(1)
        write_numbered(folder / "views", "view_{:02d}.mp4", views if self.view_videos else (), fps)
        write_numbered(folder / "times", "time_{:03d}.mp4", times if self.time_videos else (), VIEWS_A_SECOND)
        write_grid(folder / "grid.safetensors", grid, index)
        log.info("grid of %s -> %s", grid.keys[index] if grid.keys else index, folder)

    def _write_sheets(
        self, folder: Path, images: Float[Tensor, "v t c h w"], reference: Bool[Tensor, "v t"], fps: float
    ) -> None:
        frames, still = grid_video(images, reference), still_sheet(images, reference)
        enlarge = self.enlarge or fitting_enlargement(*frames.shape[1:3])
        write_video(folder / "grid.mp4", frames, fps, enlarge)
        write_png(folder / "grid.png", still, self.enlarge or fitting_enlargement(*still.shape[1:]))


def write_numbered(
    folder: Path, pattern: str, videos: Sequence[Float[Tensor, "n c h w"]], fps: float
) -> None:
    """Writes videos with their numbers, in the place of those of an earlier run.

    Args:
        folder: Their folder.
        pattern: Their names, with the number as `{}`.
        videos: In [0, 1].
        fps: Frames per second.
    """
    names = [pattern.format(number) for number in range(len(videos))]
    for old in folder.glob(re.sub("{.*}", "*", pattern)):
        if old.name not in names:
            old.unlink()
    for name, video in zip(names, videos, strict=True):
        write_video(folder / name, to_uint8(video), fps)


def frame_rate(frame_times: list[float], default: float = 12.0) -> float:
    """Frames per second of evenly spaced scene times in seconds; `default` for a single or unknown time."""
    if len(frame_times) < 2 or not frame_times[-1] > frame_times[0]:
        return default
    return (len(frame_times) - 1) / (frame_times[-1] - frame_times[0])
