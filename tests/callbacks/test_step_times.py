"""Times, FLOPs and shapes of training steps."""

import time
from contextlib import nullcontext
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_memory import LiveMemory
from callbacks.step_flops import StepFlops, peak_tflops
from callbacks.step_times import PARTS, StepTimes


class Slow(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(8, 8, bias=False)

    def training_step(self, batch, index):
        time.sleep(0.02)
        return self.network(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, sizes, every, **options):
    logged, logger = {}, L.pytorch.loggers.CSVLogger(folder)
    logger.log_metrics = lambda metrics, step=None: logged.update({step: metrics})
    callback = StepTimes(every, peak_tflops=2.0)
    L.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, logger=logger, callbacks=[callback],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1000,
        **options,
    ).fit(Slow(), DataLoader([torch.ones(n, 8) for n in sizes], batch_size=None))  # fmt: skip
    return {k: v for k, v in logged.items() if "train/mfu" in v}, callback


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batches", [1, 2])
def test_parts_are_those_of_an_optimizer_step(tmp_path, batches):
    logged, callback = fit(tmp_path, [4] * 4 * batches, 4, accumulate_grad_batches=batches)
    assert list(logged) == [4]  # three timed steps: the first one counts operations
    figures = logged[4]
    assert 0.02 * batches <= figures["train/seconds_forward"] < 0.1 * batches
    assert sum(figures[f"train/share_{name}"] for name in PARTS) == pytest.approx(1)
    seconds = sum(figures[f"train/seconds_{name}"] for name in PARTS)
    work = batches * 2 * 2 * 4 * 8 * 8 / 1e12  # forward, and the gradient of the weights
    assert figures["train/tflops_per_second"] == pytest.approx(work / seconds)
    assert figures["train/mfu"] == pytest.approx(work / seconds / 2)


@pytest.mark.filterwarnings("ignore")
def test_every_shape_is_counted(tmp_path):
    _, callback = fit(tmp_path, [4, 4, 6, 6, 4], 100)
    assert callback._flops == {((n, 8),): 2 * 2 * n * 8 * 8 for n in (4, 6)}


def test_what_checkpoints_compute_again_does_not_count():
    block, x = nn.Linear(8, 8, bias=False), torch.ones(4, 8, requires_grad=True)
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    counter = StepFlops()
    undo = counter.watch([block])
    with counter:
        loss = block(x).square().sum()
        counter.backward = True
        loss.backward()
    undo()
    assert counter.get_total_flops() == 3 * 2 * 4 * 8 * 8


def test_counting_keeps_nothing_of_checkpointed_blocks_alive():
    """The modules' hooks of torch's own counter do: the first step of a shape would need the memory of all blocks."""

    def peak(counter):
        blocks = [nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 64)) for _ in range(8)]
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        with LiveMemory() as memory, counter:
            x = torch.ones(256, 64, requires_grad=True)
            for block in blocks:
                x = block(x)
            x.sum().backward()
        return memory.peak

    plain = peak(nullcontext())
    assert peak(StepFlops()) == plain
    assert peak(FlopCounterMode(display=False)) > 1.2 * plain


def test_peaks():
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989 and peak_tflops("NVIDIA A100-SXM4-40GB") == 312
    assert peak_tflops("Some other") is None
