"""Contact sheets in TensorBoard and as PNG: what the model sees, and what it makes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from scene4d.file_names import safe_name
from scene4d.types import SceneBatch
from scene4d.visualization import frame_references, grid_sheet, write_png

log = logging.getLogger(__name__)


class GridLogging(L.Callback):
    """Shows one training sample per source at the start, and the module's pictures after every validation.

    A LightningModule offers pictures as a plain attribute `pictures`, a dictionary of `c h w` images in
    [0, 1] that stands after validation, for example sheets of reference | generated | truth | copy. Files go
    to `<log folder>/pictures/step_00001000/<name>.png`. For training samples that are read as latents, the
    module's `generator` decodes them.

    Args:
        training_batches: How many batches after the start or restart of a fit are searched for new sources.
        frames: The largest number of timesteps of a training sample that are shown; they are evenly spaced.
        enlarge: How many times every pixel of the PNG files is repeated.

    Raises:
        ValueError: A number is out of range; names it.
    """

    def __init__(self, training_batches: int = 100, frames: int = 9, enlarge: int = 2) -> None:
        numbers = ("training_batches", training_batches, 0), ("frames", frames, 1), ("enlarge", enlarge, 1)
        for name, value, least in numbers:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.training_batches, self.frames, self.enlarge = training_batches, frames, enlarge
        self._seen: set[str] = set()
        self._batches = 0
        self._folder = Path()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learns the log folder, which rank 0 tells to all: every rank must ask."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self._seen, self._batches = set(), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Shows each source once, as augmentation and selection left it; references in an orange frame."""
        self._batches += 1
        if (
            self._batches > self.training_batches
            or not trainer.is_global_zero
            or not isinstance(batch, SceneBatch)
        ):
            return
        for index, source in enumerate(batch.source):
            if source not in self._seen:
                self._seen.add(source)
                sample = batch.sample(index)
                if not sample.has_images:
                    # torch types what it does not know of a module as a tensor
                    images = pl_module.generator.images(sample)  # type: ignore[union-attr, operator]
                    sample = replace(sample, images=images)
                self.show(trainer, f"train/{source}", _training_sheet(sample, self.frames))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows `pl_module.pictures`."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for name, picture in getattr(pl_module, "pictures", {}).items():
            self.show(trainer, f"val/{name}", picture)

    on_test_end = on_validation_end

    def show(self, trainer: L.Trainer, name: str, picture: Float[Tensor, "c h w"]) -> None:
        """Logs one picture to every TensorBoard logger and writes it as PNG under the log folder; on rank 0 alone.

        Names of sources and keys of scenes come from data: what a file name cannot hold becomes `_`.
        """
        parts = [safe_name(part) for part in name.split("/")]
        picture = picture.detach().float().clamp(0, 1).cpu()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("/".join(parts), picture, trainer.global_step)
        folder = self._folder / f"step_{trainer.global_step:08d}"
        write_png(folder / f"{safe_name('_'.join(parts))}.png", picture, self.enlarge)


def _training_sheet(sample: SceneBatch, frames: int) -> Float[Tensor, "c h w"]:
    images, count = sample.images[0].float(), sample.images.shape[2]
    chosen = torch.linspace(0, count - 1, min(frames, count)).round().long().to(images.device)
    return grid_sheet(frame_references(images, sample.reference[0])[:, chosen])
