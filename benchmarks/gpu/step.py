"""The training step of a Wan2.1-1.3B on a grid of 8 views x 29 frames of 144 x 256, and where its time goes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.networks import latents_of, text_of, wan
from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from benchmarks.gpu.timing import synchronize, timed
from callbacks.step_flops import StepFlops, peak_tflops
from scene4d.atomic import write_text
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.checkpointing import Checkpointing, checkpoint_blocks
from scene4d.distributed.compiling import compile_blocks
from scene4d.networks.trainable import trainable_parameters

LATENTS, TINY_LATENTS = (8, 8, 18, 32), (2, 2, 4, 4)
PROFILED = "selective"
SHOWN = 20  # kernels


class TrainingStep:
    """Network, loss and optimizer as in configs/wan/wan2.1_1.3b.yaml, without Lightning.

    Args:
        part: Says the device and whether sizes are tiny.
        checkpointing: What the backward pass computes again.
        compiled: Whether the blocks are compiled.
    """

    def __init__(self, part: Part, checkpointing: Checkpointing, compiled: bool) -> None:
        self.device = part.device
        self.network = wan("wan2.1_1.3b", part.device, part.tiny)
        trainable_parameters(self.network, self.network.default_trainable)
        checkpoint_blocks(self.network, checkpointing)
        if compiled:
            compile_blocks(self.network)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01)
        self.flow = RectifiedFlow("velocity", clean_references=False, shift=3.0)
        self.latents, self.mask = latents_of(TINY_LATENTS if part.tiny else LATENTS, part.device)
        self.text = text_of(self.network, part.device)

    def loss(self) -> Tensor:
        """The loss of a batch under autocast, as the trainer's bf16-mixed gives it."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.flow.loss(self.network, self.latents, self.mask, self.text).mean()

    def __call__(self, number: int) -> None:
        """Takes a step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()

    def flops(self) -> int:
        """Operations of the model in a step: of attention those that the merged form needs, and none twice."""
        counter = StepFlops()
        undo = counter.watch(self.network.blocks)
        with counter:
            loss = self.loss()
            counter.backward = True
            loss.backward()
        undo()
        return counter.get_total_flops()


def step(part: Part) -> None:
    """The rows, the most wanted first."""
    flops: list[int] = []
    rows: list[tuple[Checkpointing, bool]] = [
        ("none", False), ("selective", False), ("full", False), ("selective", True), ("none", True),
    ]  # fmt: skip
    for checkpointing, compiled in rows:
        labels: Cells = {"checkpointing": checkpointing, "blocks": "compiled" if compiled else "eager"}
        part.row(labels, partial(_row, part, checkpointing, compiled, flops), needs=25 if compiled else 0)


def _row(part: Part, checkpointing: Checkpointing, compiled: bool, flops: list[int]) -> Cells:
    torch._dynamo.reset()
    counters.clear()
    training = TrainingStep(part, checkpointing, compiled)
    if not flops:
        flops.append(training.flops() if not compiled else _eager_flops(part))
    found = timed(training, part.device, repeats=5, warm_ups=2, limit=5)
    rate = flops[0] / found.seconds / 1e12
    peak = peak_tflops(torch.cuda.get_device_name()) if part.device.type == "cuda" else None
    if checkpointing == PROFILED:
        _profile(part, training, "compiled" if compiled else "eager")
    return {
        "seconds": found.seconds, "host s": found.host, "first s": found.first, "TFLOP": flops[0] / 1e12,
        "TFLOP/s": rate, "MFU": rate / peak if peak else None, "peak GB": found.peak / 1e9,
        "graphs": counters["stats"]["unique_graphs"] if compiled else None,
    }  # fmt: skip


def _eager_flops(part: Part) -> int:
    return TrainingStep(part, "selective", compiled=False).flops()


def _profile(part: Part, training: TrainingStep, name: str) -> None:
    """Writes the kernels that take most of a step."""
    cuda = part.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        training(0)
        synchronize(part.device)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=SHOWN, max_name_column_width=90)
    write_text(part.report.folder / f"profile_{name}.txt", table + "\n")
