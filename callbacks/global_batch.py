"""Accumulates gradients until the global batch that the data names is complete."""

from __future__ import annotations

import logging

import lightning as L

from scene4d.stages import accumulated_batches
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)


class GlobalBatch(L.Callback):
    """Sets the trainer's `accumulate_grad_batches` so that a step is made of the data module's `global_batch` samples.

    The number of accumulated batches follows from the number of ranks and from the batch at hand, so that stages may
    have batches of different sizes.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses two answers to one question.

        Raises:
            ValueError: `trainer.accumulate_grad_batches` is given, too.
        """
        if self._size(trainer) and trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"data.global_batch is {self._size(trainer)} and trainer.accumulate_grad_batches "
                f"{trainer.accumulate_grad_batches}: give one of them"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts batches as this number of ranks takes them, if a run goes on that another number has begun.

        Lightning makes a step when the number of batches is a multiple of those accumulated, and when an epoch ends.

        Raises:
            ValueError: `trainer.limit_train_batches` would end epochs, and so steps, between two global batches.
        """
        count = getattr(trainer.train_dataloader, "batches_before", None)
        if self._size(trainer) and count is not None:
            epoch = self._epoch(trainer)
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            taken = count(trainer.global_step)
            taken -= max(taken - 1, 0) // epoch * epoch  # of this epoch
            change = taken - getattr(progress, "processed")  # noqa: B009 - not in its type
            for name in (
                "ready",
                "started",
                "processed",
                "completed",
            ):  # the last may be one behind the others
                setattr(progress, name, getattr(progress, name) + change)

    @staticmethod
    def _epoch(trainer: L.Trainer) -> int:
        """Batches of an epoch."""
        epoch = int(trainer.num_training_batches)
        limited = isinstance(trainer.limit_train_batches, int) and not trainer.fast_dev_run  # type: ignore[attr-defined]
        for part in trainer.train_dataloader.parts:  # type: ignore[union-attr]  # of a ResumableLoader
            if limited and epoch % part.accumulated:
                raise ValueError(
                    f"trainer.limit_train_batches ends epochs after {epoch} batches, which is no multiple of the "
                    f"{part.accumulated} that make a global batch: end the run by trainer.max_steps"
                )
        return epoch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Sets the number for this batch and those of its step."""
        size = self._size(trainer)
        if size is None or not isinstance(batch, SceneBatch):
            return
        readers = (trainer.distributed_sampler_kwargs or {"num_replicas": 1})["num_replicas"]
        count = accumulated_batches(size, readers, len(batch.images))
        if count != trainer.accumulate_grad_batches or batch_idx == 0:
            log.info(
                "from step %d on: global batch of %d = %d ranks x batches of %d x %d accumulated",
                trainer.global_step, size, readers, len(batch.images), count,
            )  # fmt: skip
        trainer.accumulate_grad_batches = count

    @staticmethod
    def _size(trainer: L.Trainer) -> int | None:
        # Lightning gives the trainer this attribute without declaring it
        return getattr(trainer.datamodule, "global_batch", None)  # type: ignore[attr-defined]
