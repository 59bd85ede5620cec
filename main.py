"""Command line of the project: python main.py fit|validate|test|predict --config ... (LightningCLI)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import callbacks  # noqa: F401 - class paths in configs and checkpoints resolve to these three
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401
from callbacks.console import calm_console, with_console
from callbacks.ranks import OneEnd, lost_rank, refuse_strategy
from callbacks.tensorboard import StepLogger
from scene4d.messages import first_difference, one_line, refuse_lost_settings


class ConfigParser(LightningArgumentParser):
    """Reads configs that refine another one. jsonargparse would drop some of their settings in silence."""

    def parse_path(self, path: str | os.PathLike, *args: Any, **kwargs: Any) -> Namespace:
        """Parses a config file.

        Raises:
            ValueError: A setting of the file would take the place of others; names both.
        """
        if Path(path).is_file():  # not an address
            refuse_lost_settings(Path(path).read_text(), Path(path).name)
        return super().parse_path(path, *args, **kwargs)


class Scene4DCLI(LightningCLI):
    """LightningCLI whose runs live in `trainer.default_root_dir`, so that `--ckpt_path last` finds them."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser of config files and options."""
        parser = ConfigParser(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="YAML file of options. Of several files the later ones win. A file refines another one that it "
            "names in its first line, as in `config: base.yaml`, by lines such as `trainer.max_steps: 500`.",
        )
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        refuse_strategy(trainer.strategy)
        if trainer.logger in (None, True):
            root = trainer.default_root_dir or "runs/default"
            kwargs["logger"] = StepLogger(root)
        if (
            self.subcommand != "fit"
        ):  # beside the training's config.yaml and those of other models, not over them
            name = f"{self.subcommand}_{type(self.model).__name__}.yaml"
            self.save_config_kwargs["config_filename"] = name
        trainer.callbacks = [OneEnd(), *with_console(trainer.callbacks, trainer.enable_progress_bar)]
        return super().instantiate_trainer(**kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Finds the last checkpoint for subcommands that write none: Lightning would warn and go on without it."""
        given = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand != "fit" and given.get("ckpt_path") == "last":
            given["ckpt_path"] = last_checkpoint(Path(self.trainer.default_root_dir))
        if subcommand in ("validate", "test"):  # MetricsExport prints a better table
            given["verbose"] = False
        return given

    def _parse_ckpt_path(self) -> None:
        """Lightning's would replace the given configuration by the checkpoint's hyperparameters in silence."""


def last_checkpoint(root: Path) -> str:
    """The newest `last.ckpt` of the run in a folder.

    Raises:
        ValueError: There is none; names the folder.
    """
    found = list((root / "checkpoints").glob("last*.ckpt"))
    if not found:
        raise ValueError(f"--ckpt_path last: there is no last.ckpt in {str(root / 'checkpoints')!r}")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def main(args: list[str] | None = None) -> Scene4DCLI:
    """Runs the command line; `args` replaces sys.argv in tests."""
    return Scene4DCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"enable_model_summary": False},  # RunSummary says what matters
        parser_kwargs={"exit_on_error": False, "description": __doc__},
        args=args,
    )


def run(args: list[str] | None = None) -> None:
    """`main`; a user's mistake ends it with one line instead of a traceback."""
    calm_console()
    try:
        main(args)
    except (ArgumentError, ValueError, MisconfigurationException) as error:
        sys.exit(f"error: {one_line(error)}")
    except (FileNotFoundError, RuntimeError) as error:
        if lost_rank(error):
            sys.exit("error: another rank has ended; its own message says why")
        if not str(error).startswith(("Checkpoint file not found", "Error(s) in loading state_dict")):
            raise
        sys.exit(f"error: {first_difference(str(error))}")


if __name__ == "__main__":
    run()
