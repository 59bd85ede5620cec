"""Writes what validation or test found as JSON, and prints it as a table."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from scene4d.atomic import write_json
from scene4d.evaluation.report import table

log = logging.getLogger(__name__)


class MetricsExport(L.Callback):
    """Writes the scores when validation or test ends, and prints them after `validate` and `test`.

    The scores are the LightningModule's `results`: rows of `scene4d.evaluation.table` by part, for example
    `{"diffusion": rows}`.

    Args:
        path: The JSON file, relative to the trainer's default_root_dir. It appears whole or not at all.
        during_fit: Whether to write after the validations within training, too.
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
            write_json(Path(trainer.default_root_dir) / self.path, results)

    on_test_end = on_validation_end

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prints the table once everything else is silent."""
        results = getattr(pl_module, "results", None)
        if results and stage in ("validate", "test"):
            log.info("\n%s\n\nscores -> %s", table({"": results}), Path(trainer.default_root_dir) / self.path)
