"""Command line of the project: python main.py fit|validate|test|predict --config ... (LightningCLI)."""

from __future__ import annotations

import re
import sys

from jsonargparse import ArgumentError
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

import callbacks  # noqa: F401 - class paths in configs and checkpoints resolve to these three
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401


class Scene4DCLI(LightningCLI):
    """LightningCLI whose runs live in `trainer.default_root_dir`, so that `--ckpt_path last` finds them."""

    def instantiate_trainer(self, **kwargs) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        if trainer.logger in (None, True):
            root = trainer.default_root_dir or "runs/default"
            kwargs["logger"] = TensorBoardLogger(root, name="", version="")
        return super().instantiate_trainer(**kwargs)

    def _parse_ckpt_path(self) -> None:
        """Lightning's would replace the given configuration by the checkpoint's hyperparameters in silence."""


def main(args: list[str] | None = None) -> Scene4DCLI:
    """Runs the command line; `args` replaces sys.argv in tests."""
    return Scene4DCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"exit_on_error": False},
        args=args,
    )


def one_line(error: Exception) -> str:
    """The part of a message that says what is wrong: jsonargparse lists every type that it tried."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    telling = [
        line
        for line in lines
        if re.search(r"does not accept|not exist|[Nn]o such|not found|expected|Unable|got", line)
    ]
    kept = [line for line in [*lines[:1], *telling[:2]] if "any of the Union subtypes" not in line]
    return " ".join(dict.fromkeys(kept or lines)) or type(error).__name__


if __name__ == "__main__":
    try:
        main()
    except (ArgumentError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")
