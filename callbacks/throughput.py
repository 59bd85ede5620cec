"""Measures how fast training runs."""

from __future__ import annotations

import time

import lightning as L

from scene4d.distributed.agreement import from_all_ranks
from scene4d.types import SceneBatch

FEWEST = 5  # batches; fewer say more about the moment than about the run


class Throughput(L.Callback):
    """Logs samples and frames per second: the sum of all ranks, whose batches may have different shapes.

    A measurement ends after `every` batches, and when validation or the end of the training comes sooner. It takes
    at least 5 batches. The time between batches counts. That of validations does not, nor does the first batch of a
    fit, which waits for the data and for what is compiled. A frame is one image of a grid.

    Args:
        every: The largest number of batches that a measurement covers.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every = every
        self._first = True
        self._start, self._batches, self._samples, self._frames = 0.0, 0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self._first = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Counts, and logs at the end of a measurement."""
        if not isinstance(batch, SceneBatch):
            return
        if self._first:
            self._first = False
            self._restart()
            return
        b, v, t = batch.images.shape[:3]
        self._batches, self._samples, self._frames = (
            self._batches + 1,
            self._samples + b,
            self._frames + b * v * t,
        )
        if self._batches >= self.every:
            self._log(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends a measurement early."""
        if self._batches >= min(FEWEST, self.every):
            self._log(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts a new measurement."""
        self._restart()

    on_train_end = on_validation_start

    def _log(self, trainer: L.Trainer) -> None:
        """Logs the rates since the start of the measurement, and starts a new one. All ranks call it together."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        samples, frames = map(sum, zip(*from_all_ranks((self._samples, self._frames))))
        rates = {
            "train/samples_per_second": _readers(trainer) * samples / seconds,
            "train/frames_per_second": _readers(trainer) * frames / seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)
        self._restart()

    def _restart(self) -> None:
        self._start, self._batches, self._samples, self._frames = time.perf_counter(), 0, 0, 0


def _readers(trainer: L.Trainer) -> float:
    """The share of ranks that read data of their own: where several work on one sample, it counts once."""
    sampler = trainer.distributed_sampler_kwargs
    return sampler["num_replicas"] / trainer.world_size if sampler else 1.0
