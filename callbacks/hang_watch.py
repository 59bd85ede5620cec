"""Ends a run of several ranks that hangs, and says what each of them was doing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

import lightning as L
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from callbacks.rank_signs import SignBoard
from callbacks.rank_watcher import Watcher

log = logging.getLogger(__name__)


class HangWatch(L.Callback):
    """Ends all processes of a run with status 1 when no rank has given a sign of life for a while.

    A rank that waits for its data for ever, or that is stuck in a kernel or a file system, keeps all others waiting
    for it. They show signs of life with every batch, in training, validation, test and prediction, and with every call
    of the network, so with every step of a sample. As long as any rank gives signs, nothing has hung, however long
    others wait for it. Before the first batch is complete, which may compile and load a lot, three times as long is
    waited. The time in which the whole run was suspended does not count.

    One table says of every rank: its machine, the last complete step, what it has been doing since its last sign
    (starting, data, forward, backward, optimizer, validation, saving and so on), for how long, and in which line. A
    rank that waits for its data also prints the lines that the processes are in which load them. The last checkpoint
    stays as it is, and `--ckpt_path last` goes on from it.

    Runs of one process are not watched.

    Args:
        limit: The time without a sign of life. It must be longer than the writing of a checkpoint, and shorter than
            the timeout of the process group (30 minutes), whose error says less.

    Raises:
        ValueError: `limit` is not positive.
    """

    def __init__(self, limit: timedelta = timedelta(minutes=20)) -> None:
        if limit <= timedelta(0):
            raise ValueError(f"limit must be positive, got {limit}")
        self.limit = limit
        self.watcher: Watcher | None = None
        self._hook: RemovableHandle | None = None
        self._unwatch_saving: Callable[[], None] = lambda: None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begins to watch, if there are several ranks."""
        self._stop()
        if trainer.world_size == 1:
            return
        try:
            board = SignBoard(trainer.world_size)
        except (KeyError, RuntimeError) as error:
            log.warning("hangs are not watched for, because the store of the process group fails: %s", error)
            return
        self.watcher = Watcher(board, trainer.global_rank, self.limit.total_seconds())
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            self.watcher.children = launcher
        self._watch_saving(trainer)
        self.watcher.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watches no longer."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Watches no longer: this process ends, and if it does not, others notice."""
        self._stop()

    def _stop(self) -> None:
        if self.watcher is not None:
            self.watcher.done.set()
            self.watcher.join(timeout=5)  # it may wait for the store
            self._unwatch_saving()
        if self._hook is not None:
            self._hook.remove()
        self.watcher = self._hook = None

    def _alive(self, trainer: L.Trainer, doing: str, begun: bool = False) -> None:
        if self.watcher is not None:
            self.watcher.alive(trainer.global_step, doing, begun)

    def _watch_saving(self, trainer: L.Trainer) -> None:
        """The begin and the end of a save are signs of life; Lightning has no hook for the end."""
        save = trainer.save_checkpoint

        def watched(*args: object, **options: object) -> None:
            before = self.watcher.sign.doing if self.watcher else ""
            self._alive(trainer, "saving")
            save(*args, **options)  # type: ignore[arg-type]
            self._alive(trainer, before)

        trainer.save_checkpoint = watched  # type: ignore[method-assign]
        self._unwatch_saving = lambda: setattr(trainer, "save_checkpoint", save)

    def _watch_network(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Every call of the network is a sign of life."""
        network = getattr(pl_module, "network", None)
        if self.watcher is not None and self._hook is None and isinstance(network, nn.Module):
            self._hook = network.register_forward_pre_hook(self.watcher.again)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The network is there."""
        self._watch_network(trainer, pl_module)
        self._alive(trainer, "starting")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The wait for the first batch begins."""
        self._alive(trainer, "data")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """A batch has come."""
        self._alive(trainer, "forward")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """There is a loss."""
        self._alive(trainer, "backward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There are gradients."""
        self._alive(trainer, "optimizer")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are judged and clipped."""
        self._alive(trainer, "optimizer")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """The next batch is waited for."""
        self._alive(trainer, "data", begun=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation begins."""
        self._watch_network(trainer, pl_module)
        self._alive(trainer, "validation")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # fmt: skip
        """A batch has come."""
        self._alive(trainer, "validation")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """A batch is complete."""
        self._alive(trainer, "validation", begun=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training goes on."""
        self._alive(trainer, "after validation")

    on_test_start, on_test_end = on_validation_start, on_validation_end
    on_test_batch_start, on_test_batch_end = on_validation_batch_start, on_validation_batch_end

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A prediction begins."""
        self._watch_network(trainer, pl_module)
        self._alive(trainer, "prediction")

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # fmt: skip
        """A scene has come."""
        self._alive(trainer, "prediction")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """A scene is complete."""
        self._alive(trainer, "prediction", begun=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is left is written."""
        self._alive(trainer, "ending")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The others may predict on."""
        self._alive(trainer, "ending")


def with_hang_watch(given: Sequence[L.Callback]) -> list[L.Callback]:
    """The callbacks of a run with a `HangWatch` behind them; one among them stays the only one."""
    own = any(isinstance(callback, HangWatch) for callback in given)
    return [*given, *([] if own else [HangWatch()])]
