"""Writes what validation or test found as JSON."""

from __future__ import annotations

import logging

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from scene4d.report import write_json

log = logging.getLogger(__name__)


class MetricsExport(L.Callback):
    """Writes the nested dictionary `results` of the LightningModule when validation or test ends.

    Args:
        path: JSON file, replaced in one step.
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
            write_json(self.path, results)
            log.info("metrics -> %s", self.path)

    on_test_end = on_validation_end
