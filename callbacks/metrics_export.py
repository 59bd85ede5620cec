"""Writes what validation or test found as JSON."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from scene4d.atomic import write_json

log = logging.getLogger(__name__)


class MetricsExport(L.Callback):
    """Writes the nested dictionary `results` of the LightningModule when validation or test ends.

    Args:
        path: JSON file, replaced in one step; relative to the trainer's default_root_dir.
        during_fit: Also after the validations within training.
    """

    def __init__(self, path: str, during_fit: bool = False) -> None:
        self.path, self.during_fit = path, during_fit

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes, on rank 0, unless there are no results."""
        results = getattr(pl_module, "results", None)
        fitting = trainer.state.fn == TrainerFn.FITTING  # trainer.validating is true within training, too
        if fitting and (trainer.sanity_checking or not self.during_fit):
            return
        if results and trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / self.path
            write_json(path, results)
            log.info("metrics -> %s", path)

    on_test_end = on_validation_end
