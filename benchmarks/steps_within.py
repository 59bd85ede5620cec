"""Prints how many optimizer steps a training makes within so many seconds on this machine.

    python -m benchmarks.steps_within 480 fit --config configs/small_gpu/base_video.yaml

A schedule that ends with the time must know its steps beforehand, and they differ from card to card. The training runs
its first steps with its own data, without validation; what it writes goes into a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence

import lightning as L
import torch

import main as command_line

STEPS = 60
WARMUP = 20  # these compile


class StepEnds(L.Callback):
    """Notes when every optimizer step ends, so that waiting for data counts, and stops the training after some."""

    def __init__(self) -> None:
        self.times = list[float]()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Notes the time at which the device is done."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        trainer.should_stop = len(self.times) >= STEPS


def steps_within(seconds: float, times: Sequence[float]) -> int:
    """Steps that fit into some seconds, from the ends of the first steps; those of the warm-up do not count."""
    warmup = min(WARMUP, len(times) // 2)
    return int(seconds * (len(times) - 1 - warmup) / (times[-1] - times[warmup]))


def main(arguments: Sequence[str]) -> int:
    """Runs the first steps of a training and returns how many fit."""
    seconds, *training = arguments
    with tempfile.TemporaryDirectory() as folder:
        short = ["--trainer.default_root_dir", folder, "--trainer.limit_val_batches", "0"]
        short += ["--trainer.callbacks+", "benchmarks.steps_within.StepEnds"]
        trainer = command_line.main([*training, *short]).trainer
    (ends,) = (x for x in trainer.callbacks if isinstance(x, StepEnds))
    return steps_within(float(seconds), ends.times)


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1:])}\n")
