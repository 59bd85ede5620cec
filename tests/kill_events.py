"""Writes down what a run is doing, so that a test can kill it at chosen moments."""

from __future__ import annotations

import os
from typing import Any

import lightning as L


class Events(L.Callback):
    """Rank 0 appends lines such as `save 3` to the file that the environment's `EVENTS` names, before it does it."""

    def note(self, what: str, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            with open(os.environ["EVENTS"], "a") as file:
                file.write(f"{what} {trainer.global_step}\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.note("train", trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ):
        self.note("save", trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.note("validation", trainer)

    def on_train_end(self, trainer, pl_module):
        self.note("end", trainer)
