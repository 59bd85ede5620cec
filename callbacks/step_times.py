"""Where the time of a training step goes, how many FLOP/s it makes, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import lightning as L
import torch
from torch import Tensor, nn

from callbacks.block_times import BlockTimes, Mark, mark, seconds
from callbacks.rank_figures import PARTS, RankTimes, peak_memory, rank_figures
from callbacks.step_flops import StepFlops, peak_tflops
from scene4d.distributed.agreement import from_all_ranks
from scene4d.types import SceneBatch

Batch = tuple[list[Mark], list[tuple[Mark, Mark]]]  # moments between the parts; beginnings and ends of blocks


class StepTimes(L.Callback):
    """Logs seconds and shares of an optimizer step's parts, TFLOP/s, MFU, peak memory, and which rank is the slowest.

    `train/seconds_data` is the wait for a batch, its transfer and the encoding of what is not stored; then come
    forward, backward and optimizer (clipping and other callbacks at the end of a batch included). Batches that are
    accumulated count to one step. On a GPU the times are those of CUDA events on its stream: no step waits for
    the GPU, except for the last event at each logging. A step beside a validation or a checkpoint is left out.

    `train/tflops_per_second` is that of one device; operations are counted once for each new shape of a batch, in a
    step that is not timed (see `StepFlops`). `train/mfu` is its share of the peak. `train/memory_gb` is the peak of
    allocated CUDA memory since the last time; on a CPU it is the peak of the process's resident memory.

    On several ranks times and TFLOP/s are means over ranks, memory is that of the rank that takes most, and
    `train/seconds_data_slowest` is the wait of the rank that waits longest for its data. Since all ranks need equally
    long for a step, the slowest one shows in what they do without each other: the wait for data and the forward pass
    of the network's blocks. `train/straggler_spread` is this time of the slowest rank over the median of all, and
    `train/straggler_rank` names it. Ranks are asked only when it is logged.

    Args:
        every: The number of optimizer steps between two logs, for all ranks alike.
        peak_tflops: Peak of one device in TFLOP/s; None looks its name up and logs no MFU if it is not known.
    """

    def __init__(self, every: int = 50, peak_tflops: float | None = None) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"peak_tflops must be positive, got {peak_tflops}")
        self.every, self.peak = every, peak_tflops
        self._flops: dict[tuple, int] = {}
        self._counter: StepFlops | None = None
        self._undo: Callable[[], None] | None = None
        self._blocks = BlockTimes()
        self._forget()

    def _forget(self) -> None:
        self._steps: list[list[Batch]] = []  # the batches of every measured step
        self._work = 0
        self._restart()

    def _restart(self) -> None:
        """Gives up the step that is under way."""
        self._batches: list[Batch] = []
        self._marks: list[Mark] = []
        self._end: Mark | None = None
        self._valid, self._pending = False, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self._forget()
        self._step = self._logged = trainer.global_step
        if trainer.world_size > 1:
            self._blocks.watch(_blocks(pl_module), pl_module.device)
        if self.peak is None and pl_module.device.type == "cuda":
            self.peak = peak_tflops(torch.cuda.get_device_name(pl_module.device))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Ends the wait for the data, and counts operations if the shape is new."""
        self._key = _shape(batch)
        self._marks = [] if self._end is None else [self._end, mark(pl_module.device)]
        self._blocks.active = True
        if self._key not in self._flops:
            self._valid, self._counter = False, StepFlops()
            self._undo = self._counter.watch(_blocks(pl_module))
            self._counter.__enter__()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Ends the forward pass."""
        self._marks.append(mark(pl_module.device))
        self._blocks.active = False
        if self._counter is not None:
            self._counter.backward = True

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the backward pass."""
        if self._counter is not None:
            self._stop_counting()
        self._marks.append(mark(pl_module.device))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Ends the optimizer's part, and logs when it is time."""
        self._end = mark(pl_module.device)
        self._valid = self._valid and len(self._marks) == 4
        self._batches.append(([*self._marks, self._end], self._blocks.take()))
        self._pending += self._flops.get(self._key, 0)
        if trainer.global_step == self._step:
            return  # more batches are accumulated
        self._step = trainer.global_step
        if self._valid:
            self._steps.append(self._batches)
            self._work += self._pending
        self._batches, self._valid, self._pending = [], True, 0
        if (
            self._step - self._logged >= self.every
        ):  # not by the number of timed steps, which ranks may differ in
            self._log(trainer, pl_module)
            self._end = mark(pl_module.device)  # asking the others is part of no step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives up a step that a validation would lengthen."""
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the memory of a validation back to the GPU."""
        self._restart()
        if pl_module.device.type == "cuda":
            torch.cuda.empty_cache()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Gives up a step that the writing would lengthen."""
        self._restart()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends a counting that was interrupted."""
        self._blocks.remove()
        if self._counter is not None:
            self._stop_counting()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what is left."""
        if trainer.global_step > self._logged:
            self._log(trainer, pl_module)
        self._blocks.remove()

    def _stop_counting(self) -> None:
        assert self._counter is not None and self._undo is not None
        self._counter.__exit__(None, None, None)
        self._undo()
        self._flops[self._key] = self._counter.get_total_flops()
        self._counter = self._undo = None

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Asks all ranks and logs; every rank must call it at the same step."""
        ranks = from_all_ranks(self._measured(module.device))
        for logger in trainer.loggers:
            if figures := rank_figures(ranks, self.peak):
                logger.log_metrics(figures, step=trainer.global_step)
        self._steps, self._work, self._logged = [], 0, trainer.global_step

    def _measured(self, device: torch.device) -> RankTimes:
        parts, own = [0.0] * len(PARTS), 0.0
        for marks, blocks in (batch for step in self._steps for batch in step):
            times = [seconds(marks[k], marks[k + 1]) for k in range(len(PARTS))]
            parts = [x + y for x, y in zip(parts, times)]
            own += times[0] + (sum(seconds(*pair) for pair in blocks) if blocks else times[1])
        return RankTimes(len(self._steps), parts, own, self._work / 1e12, peak_memory(device))


def _blocks(module: L.LightningModule) -> Iterable[nn.Module]:
    return getattr(getattr(module, "network", None), "blocks", ())


def _shape(batch: object) -> tuple:
    """What decides how much work a batch is. Networks pad captions to one length."""
    if not isinstance(batch, SceneBatch):
        return (tuple(batch.shape),) if isinstance(batch, Tensor) else ()
    tensors = (batch.images, batch.latents)
    return tuple(None if x is None else tuple(x.shape) for x in tensors)
