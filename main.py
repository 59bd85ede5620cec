"""Command line of the project: python main.py fit|validate|test|predict --config ... (LightningCLI)."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # the imports take long: nothing that SLURM sends must be lost or kill
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGUSR1} | ({signal.SIGTERM} if "SLURM_JOB_ID" in os.environ else set())
    )
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import sys
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import callbacks  # noqa: F401 - class paths in configs and checkpoints resolve to these three
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401
from callbacks.checkpoint_files import with_whole_checkpoints
from callbacks.console import calm_console, with_console
from callbacks.endings import line_of, naming_files
from callbacks.global_batch import GlobalBatch
from callbacks.hang_watch import with_hang_watch
from callbacks.preemption import leave_signals_alone, with_last_checkpoint
from callbacks.ranks import OneEnd
from callbacks.requeue import back_to_the_queue
from callbacks.resuming import find_checkpoint, keep_settings
from callbacks.saved_config import SavedConfig
from callbacks.strategies import refuse_strategy
from callbacks.tensorboard import StepLogger
from lightning_modules.config_parser import ConfigParser, add_stages, with_config_option
from scene4d.interruption import defer, received, stop, stop_by_signal
from scene4d.networks.pretrained import refuse_missing


class Scene4DCLI(LightningCLI):
    """LightningCLI whose runs live in `trainer.default_root_dir`, so that `--ckpt_path last` finds them."""

    checkpoint: str | None = None  # what --ckpt_path means

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Stages of a training are written once and reach data and model."""
        add_stages(parser)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser of config files and options."""
        return with_config_option(ConfigParser(**kwargs))

    def before_instantiate_classes(self) -> None:
        """Finds the checkpoint, whose settings win over the given ones where they cannot change."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        config.trainer.default_root_dir = config.trainer.default_root_dir or "runs/default"
        self.checkpoint = find_checkpoint(self.subcommand, config.ckpt_path, config.trainer)
        if self.subcommand == "fit":
            keep_settings(self.checkpoint, config)
        else:  # beside the training's config.yaml and those of other models, not over them
            model = config.model.class_path.rsplit(".", 1)[-1]
            self.save_config_kwargs["config_filename"] = f"{self.subcommand}_{model}.yaml"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer, stages = self._get(self.config_init, "trainer"), self._get(self.config_init, "stages")
        if stages and trainer.max_steps < 0:
            trainer.max_steps = stages[-1].until
        refuse_strategy(trainer.strategy)
        if trainer.logger in (None, True):
            kwargs["logger"] = StepLogger(trainer.default_root_dir)
        trainer.callbacks = [
            OneEnd(),
            GlobalBatch(),
            *with_console(trainer.callbacks, trainer.enable_progress_bar),
        ]
        if self.subcommand == "fit" and trainer.enable_checkpointing is not False:
            trainer.callbacks = with_last_checkpoint(trainer.callbacks)
        else:
            defer(False)  # nobody will ask whether SIGUSR1 waits
        trainer.callbacks = with_hang_watch(trainer.callbacks)
        built = super().instantiate_trainer(**kwargs, plugins=with_whole_checkpoints(trainer.plugins))
        leave_signals_alone(built)
        return built

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        given = super()._prepare_subcommand_kwargs(subcommand)
        given["ckpt_path"] = self.checkpoint
        if subcommand in ("validate", "test"):  # MetricsExport prints a better table
            given["verbose"] = False
        return given

    def _run_subcommand(self, subcommand: str) -> None:
        """What it reads is looked for before anything is written, and errors name files."""
        if self.datamodule is None:
            raise ValueError("no data is given: add --data or a config file with it")
        self.datamodule.setup(subcommand)
        self.datamodule.setup = lambda stage: None  # Lightning would do it again
        refuse_missing(getattr(self.model, "initial_weights", []))
        with naming_files(self.trainer.default_root_dir, self.checkpoint):
            super()._run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Lightning's would replace the given configuration by the checkpoint's hyperparameters in silence."""


def main(args: list[str] | None = None) -> Scene4DCLI:
    """Runs the command line; `args` replaces sys.argv in tests."""
    return Scene4DCLI(
        LightningModule,
        LightningDataModule,
        SavedConfig,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
        trainer_defaults={"enable_model_summary": False},  # RunSummary says what matters
        parser_kwargs={"exit_on_error": False, "description": __doc__},
        args=args,
    )


def run(args: list[str] | None = None) -> None:
    """`main`; a user's mistake ends it with one line instead of a traceback."""
    calm_console()
    try:
        main(args)
    except Exception as error:
        if (
            received() is not None
        ):  # workers that the signal has ended may be missed before it is noticed here
            stop()
        if (line := line_of(error)) is None:
            raise
        sys.exit(f"error: {line}")


if __name__ == "__main__":
    with back_to_the_queue(sys.argv[1:]):
        stop_by_signal()
        run()
