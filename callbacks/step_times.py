"""Where the time of a training step goes, how many FLOP/s it makes, and the memory that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import lightning as L
import torch
from torch import Tensor

from callbacks.step_flops import StepFlops, peak_tflops
from scene4d.types import SceneBatch

PARTS = ("data", "forward", "backward", "optimizer")
Mark = float | torch.cuda.Event


class StepTimes(L.Callback):
    """Logs seconds and shares of an optimizer step's parts, TFLOP/s, MFU and peak memory, of this rank.

    `train/seconds_data` is the wait for a batch, its transfer and the encoding of what is not stored; then come
    forward, backward and optimizer (clipping and other callbacks at the end of a batch included). Batches that are
    accumulated count to one step. On a GPU the times are those of CUDA events on its stream: no step waits for
    the GPU, except for the last event at each logging. A step beside a validation or a checkpoint is left out.

    `train/tflops_per_second` counts once for each new shape of a batch, in a step that is not timed (see
    `StepFlops`). `train/mfu` is its share of the peak. `train/memory_gb` is the peak of allocated CUDA memory since the
    last time.

    Args:
        every: The number of measured optimizer steps between two logs.
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
        self._forget()

    def _forget(self) -> None:
        self._steps: list[list[list[Mark]]] = []  # marks of the batches of every measured step
        self._work = 0
        self._restart()

    def _restart(self) -> None:
        """Gives up the step that is under way."""
        self._batches: list[list[Mark]] = []
        self._marks: list[Mark] = []
        self._end: Mark | None = None
        self._valid, self._pending = False, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self._forget()
        self._step = trainer.global_step
        if self.peak is None and pl_module.device.type == "cuda":
            self.peak = peak_tflops(torch.cuda.get_device_name(pl_module.device))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Ends the wait for the data, and counts operations if the shape is new."""
        self._key = _shape(batch)
        self._marks = [] if self._end is None else [self._end, self._mark(pl_module)]
        if self._key not in self._flops:
            self._valid, self._counter = False, StepFlops()
            network = getattr(pl_module, "network", None)
            self._undo = self._counter.watch(getattr(network, "blocks", ()))
            self._counter.__enter__()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Ends the forward pass."""
        self._marks.append(self._mark(pl_module))
        if self._counter is not None:
            self._counter.backward = True

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the backward pass."""
        if self._counter is not None:
            self._stop_counting()
        self._marks.append(self._mark(pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Ends the optimizer's part, and logs when it is time."""
        self._end = self._mark(pl_module)
        self._valid = self._valid and len(self._marks) == 4
        self._batches.append([*self._marks, self._end])
        self._pending += self._flops.get(self._key, 0)
        if trainer.global_step == self._step:
            return  # more batches are accumulated
        self._step = trainer.global_step
        if self._valid:
            self._steps.append(self._batches)
            self._work += self._pending
        self._batches, self._valid, self._pending = [], True, 0
        if len(self._steps) >= self.every:
            self._log(trainer, pl_module)

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
        if self._counter is not None:
            self._stop_counting()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what is left."""
        if self._steps:
            self._log(trainer, pl_module)

    def _stop_counting(self) -> None:
        assert self._counter is not None and self._undo is not None
        self._counter.__exit__(None, None, None)
        self._undo()
        self._flops[self._key] = self._counter.get_total_flops()
        self._counter = self._undo = None

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        parts = [0.0] * len(PARTS)
        for marks in (batch for step in self._steps for batch in step):
            for k in range(len(PARTS)):
                parts[k] += _seconds(marks[k], marks[k + 1])
        whole = max(sum(parts), 1e-9)
        figures = {f"train/seconds_{name}": x / len(self._steps) for name, x in zip(PARTS, parts)}
        figures |= {f"train/share_{name}": x / whole for name, x in zip(PARTS, parts)}
        figures["train/tflops_per_second"] = rate = self._work / whole / 1e12
        if self.peak is not None:
            figures["train/mfu"] = rate / self.peak
        if module.device.type == "cuda":
            figures["train/memory_gb"] = torch.cuda.max_memory_allocated(module.device) / 1e9
            torch.cuda.reset_peak_memory_stats(module.device)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
        self._steps, self._work = [], 0

    @staticmethod
    def _mark(module: L.LightningModule) -> Mark:
        if module.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000
    assert isinstance(start, float) and isinstance(end, float)  # of one device
    return end - start


def _shape(batch: object) -> tuple:
    """What decides how much work a batch is. Networks pad captions to one length."""
    if not isinstance(batch, SceneBatch):
        return (tuple(batch.shape),) if isinstance(batch, Tensor) else ()
    tensors = (batch.images, batch.latents)
    return tuple(None if x is None else tuple(x.shape) for x in tensors)
