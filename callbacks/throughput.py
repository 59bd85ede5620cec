"""Measures how fast training runs."""

from __future__ import annotations

import time

import lightning as L

from scene4d.types import SceneBatch


class Throughput(L.Callback):
    """Logs samples and frames per second, over all ranks, every `every` batches.

    The time between batches counts, and the time of validations does not. A frame is one image of a grid.

    Args:
        every: The number of batches that a measurement covers.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every = every
        self._start, self._batches, self._samples, self._frames = 0.0, 0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._restart()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Counts, and logs at the end of a measurement."""
        if not isinstance(batch, SceneBatch):
            return
        b, v, t = batch.images.shape[:3]
        self._batches, self._samples, self._frames = (
            self._batches + 1,
            self._samples + b,
            self._frames + b * v * t,
        )
        if self._batches < self.every:
            return
        seconds = max(time.perf_counter() - self._start, 1e-9)
        ranks = trainer.world_size
        rates = {
            "train/samples_per_second": ranks * self._samples / seconds,
            "train/frames_per_second": ranks * self._frames / seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts a new measurement."""
        self._restart()

    def _restart(self) -> None:
        self._start, self._batches, self._samples, self._frames = time.perf_counter(), 0, 0, 0
