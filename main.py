"""Command line of the project: python main.py fit|validate|test|predict --config ... (LightningCLI)."""

from __future__ import annotations

import sys

from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import callbacks
import datamodules
import lightning_modules  # noqa: F401 - class paths in configs and checkpoints resolve to these three


class Scene4DCLI(LightningCLI):
    """LightningCLI that says user errors in one line and lets the command line win over a checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"trainer.logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                                                "init_args": {"save_dir": "runs", "name": None}}})  # fmt: skip

    def _parse_ckpt_path(self) -> None:
        """The default would overwrite the given configuration with the checkpoint's hyperparameters in silence."""


def main(args: list[str] | None = None) -> Scene4DCLI:
    """Runs the command line; `args` replaces sys.argv in tests."""
    return Scene4DCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfigCallback,
        save_config_kwargs={"overwrite": True},
        args=args,
    )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
