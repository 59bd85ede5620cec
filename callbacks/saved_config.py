"""The config of a run, beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from scene4d.atomic import write_text


class SavedConfig(SaveConfigCallback):
    """Writes all settings of a command into the trainer's default_root_dir, whole or not at all.

    Needs `save_to_log_dir=False`: Lightning's own writing would leave a cut file when it is killed.
    """

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes the file; Lightning calls this on rank 0."""
        text = self.parser.dump(self.config, skip_none=False)
        write_text(Path(trainer.default_root_dir) / self.config_filename, text)
