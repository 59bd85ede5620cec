"""Keeps the newest state of a run as `last.ckpt`, stops at signals, and repeats a validation that was cut off."""

from __future__ import annotations

import logging
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.checkpoint_files import own_path
from callbacks.fsdp2 import FSDP2
from scene4d.distributed.agreement import any_rank
from scene4d.interruption import Interrupted, asked, defer, outlive_warning, stop

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` below the trainer's default_root_dir, from which `--ckpt_path last` goes on.

    It is written at the intervals that are given, before and after every validation within training, after the
    last step, and when SIGTERM, SIGINT or SIGUSR1 arrives, which then ends the run with status 143, 130 or 138. A
    signal that came while the run was starting ends it before its first step. The file replaces its predecessor when
    it is complete. It is written between optimizer steps alone, so that a resumed run repeats an uninterrupted one to
    the bit. A run that was killed during a validation begins with that validation.

    A run that starts anew in a folder with checkpoints leaves them and writes `last-v1.ckpt`, which is then the one
    that `--ckpt_path last` finds. For further checkpoints, such as the best ones, add Lightning's ModelCheckpoint.

    Args:
        every_n_train_steps: The number of optimizer steps between two checkpoints.
        train_time_interval: The time between two checkpoints, as in "00:00:30".

    Raises:
        ValueError: `every_n_train_steps` is not positive.
    """

    def __init__(
        self, every_n_train_steps: int | None = None, train_time_interval: timedelta | None = None
    ) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        self.every_n_train_steps, self.train_time_interval = every_n_train_steps, train_time_interval
        self.path: Path | None = None
        self.validation_due = False  # whether the run was in a validation when this state was saved
        self._saved: tuple[int, bool] | None = None  # step, and `validation_due`
        self._step, self._time, self._accumulates, self._stopping = 0, 0.0, False, False
        self._max_steps, self._first = -1, 0

    def state_dict(self) -> dict[str, Any]:
        """Whether a validation has to be repeated, and the length of the run, on which schedules depend."""
        return {"validation_due": self.validation_due, "max_steps": self._max_steps}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Learns whether the run ended within a validation."""
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self.validation_due = bool(state.get("validation_due"))
        self._step = checkpoint["global_step"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forgets earlier runs."""
        self.path, self._saved, self._accumulates, self._stopping = None, None, False, False
        self.validation_due, self._step = False, 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds a name for the file, and lets a complete run begin that lacks its last validation."""
        self._max_steps = trainer.max_steps
        if self.validation_due and 0 <= self._max_steps <= self._step:
            trainer.fit_loop.epoch_loop.max_steps = self._step + 1  # `on_train_start` puts it back
        folder = Path(trainer.default_root_dir).absolute() / "checkpoints"
        of_many_ranks = isinstance(trainer.strategy, FSDP2)
        path = own_path(folder, trainer.ckpt_path, of_many_ranks) if trainer.is_global_zero else None
        self.path = trainer.strategy.broadcast(path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Repeats a validation that was cut off."""
        self._step, self._time = trainer.global_step, time.monotonic()
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        self._first = trainer.global_step
        if self._writes(trainer):
            defer(True)
            if self._asked(trainer):
                self._stop(trainer)
            if self.validation_due:
                self._saved = (self._step, True)
                self._validate(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Ends the run after the step in which a signal arrived, unless a validation had to come first."""
        if self._stopping:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Writes after an optimizer step, if it is time or the run has to end."""
        self._accumulates = trainer.global_step == self._step
        if self._accumulates or not self._writes(trainer):
            return
        self._step = trainer.global_step
        self._stopping = self._asked(trainer)
        if self._stopping or self._is_last(trainer) or self._is_time(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes before a validation, which a signal ends at once."""
        if not self._in_fit(trainer) or self._accumulates:
            return  # between two optimizer steps nothing can be saved exactly: the next step comes first
        self._stopping = self._stopping or self._asked(trainer)
        self._save(trainer, validation_due=True)
        if self._stopping:
            self._stop(trainer)
        defer(False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes that the validation is complete."""
        if self._in_fit(trainer):
            defer(True)
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the last step."""
        if self._writes(trainer):
            self._save(trainer)
            if self._stopping:
                self._stop(trainer)
            outlive_warning()
            defer(False)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Says where a run that was stopped goes on."""
        if not isinstance(exception, Interrupted):
            return
        name = signal.Signals(exception.signum).name
        if self._saved:
            log.info("%s: stopped after step %d -> %s", name, self._saved[0], self.path)
        elif exception.after == 0:
            log.info("%s: stopped before the first step", name)

    def _save(self, trainer: L.Trainer, validation_due: bool = False) -> None:
        state = (trainer.global_step, validation_due)
        if self._accumulates or self._saved == state:
            return
        self.validation_due = validation_due
        trainer.save_checkpoint(str(self.path))
        if isinstance(trainer.strategy, FSDP2) and (self._stopping or self._is_last(trainer)):
            trainer.strategy.finish_saves()
        self._saved, self._time = state, time.monotonic()

    @staticmethod
    def _is_last(trainer: L.Trainer) -> bool:
        return trainer.should_stop or trainer.global_step == trainer.max_steps

    def _validate(self, trainer: L.Trainer) -> None:
        """What Lightning does at a step with a validation; after a resume it skips it."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        loop._has_run = False  # or an epoch that ends here, and all later ones, would count as done
        trainer.training = True

    def _is_time(self, trainer: L.Trainer) -> bool:
        if self.every_n_train_steps is not None and trainer.global_step % self.every_n_train_steps == 0:
            return True
        if self.train_time_interval is None:
            return False
        passed = time.monotonic() - self._time >= self.train_time_interval.total_seconds()
        return any_rank(passed, trainer.strategy.root_device)

    def _stop(self, trainer: L.Trainer) -> NoReturn:
        """Ends this rank, as all others do at the same step."""
        stop(after=trainer.global_step - self._first)

    @staticmethod
    def _asked(trainer: L.Trainer) -> bool:
        """Whether any rank was asked to stop; a rank that was not takes part."""
        return any_rank(asked() is not None, trainer.strategy.root_device)

    @staticmethod
    def _writes(trainer: L.Trainer) -> bool:
        return not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector

    def _in_fit(self, trainer: L.Trainer) -> bool:
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return fits and self._writes(trainer)
