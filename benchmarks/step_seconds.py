"""The duration of optimizer steps."""

from __future__ import annotations

import time

import lightning as L


class StepSeconds(L.Callback):
    """Measures the optimizer steps, from the batch on its device to the updated weights."""

    def __init__(self) -> None:
        self.start, self.seconds = 0.0, list[float]()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self.start)
