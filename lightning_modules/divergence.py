"""Stops a training that has diverged, before its weights are saved, exported or used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.types import SceneBatch

SKIPPED = (
    20  # optimizer steps in a row that a gradient scaler may skip: its scale has fallen a millionfold by then
)
ADVICE = (
    "no checkpoint holds this; go on from the last one (--ckpt_path last) with a lower learning rate or a lower "
    "trainer.gradient_clip_val, or look at these samples"
)


class Report(TypedDict):
    """What one rank knows about its losses."""

    finite: bool
    samples: list[str]


@dataclass
class Step:
    """One optimizer step: its number, the samples of this rank, and on the device, whether all was finite."""

    number: int = 0
    samples: list[str] = field(default_factory=list)
    losses: list[Float[Tensor, ""]] = field(default_factory=list)
    finite: Bool[Tensor, ""] | None = None
    copied: torch.cuda.Event | None = None

    def report(self) -> Report:
        """What this rank tells the others once they know that they stop."""
        return {"finite": all(bool(loss.isfinite()) for loss in self.losses), "samples": self.samples}


class Divergence:
    """Notices losses and gradients that are NaN or infinite.

    A step counts as diverged when a loss of any rank or the norm of the gradient, which all ranks share, is not
    finite. On a CPU the optimizer never takes such a step. A GPU is not waited for: its answer is read at the next
    step, or when weights are about to be saved, by which time the weights may be spoilt and are refused.
    """

    def __init__(self) -> None:
        self._step, self._waiting, self._skipped = Step(), Step(), 0

    def batch(self, batch: object) -> None:
        """Notes the samples of one batch; several may make one optimizer step."""
        if isinstance(batch, SceneBatch):
            self._step.samples += [f"{source}/{key}" for source, key in zip(batch.source, batch.keys)]

    def loss(self, loss: Float[Tensor, ""]) -> None:
        """Notes the loss of one batch."""
        self._step.losses.append(loss.detach())

    def gradient(self, norm: Float[Tensor, ""], number: int, scaled: bool) -> None:
        """Judges a step before the optimizer takes it; every rank must call it.

        Args:
            norm: The norm of the gradient of all ranks.
            number: Number of the optimizer step.
            scaled: Whether a gradient scaler skips steps whose gradient is infinite, which is no divergence.

        Raises:
            ValueError: This step or, on a GPU, the one before has diverged; says what `settle` says.
        """
        self.settle(scaled)
        self._waiting, self._step = self._step, Step()
        self._waiting.number, self._waiting.finite = number, self._all_finite(norm)
        if norm.is_cuda:
            self._waiting.copied = torch.cuda.Event()
            self._waiting.copied.record()
        else:
            self.settle(scaled)

    def settle(self, scaled: bool = False) -> None:
        """Waits for the answer that is still open.

        Raises:
            ValueError: That step has diverged; names the step, the samples, and the ranks whose loss it was.
        """
        step, self._waiting = self._waiting, Step()
        if step.finite is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        self._skipped = 0 if bool(step.finite) else self._skipped + 1
        if self._skipped > (SKIPPED if scaled else 0):
            raise ValueError(f"training has diverged at step {step.number}: {_culprits(step)}; {ADVICE}")

    def _all_finite(self, norm: Float[Tensor, ""]) -> Bool[Tensor, ""]:
        """Whether the norm and the losses of all ranks are finite, on its way to the CPU."""
        finite = torch.stack([norm.detach(), *self._waiting.losses]).isfinite().all()
        if dist.is_initialized():
            shared = finite.to(torch.uint8)
            dist.all_reduce(shared, dist.ReduceOp.MIN)
            finite = shared.bool()
        return finite.to("cpu", non_blocking=True)  # pinned memory: nothing waits


def _culprits(step: Step) -> str:
    """What was not finite, and for which samples. All ranks are here, so that they may talk."""
    reports: list[Report | None] = [step.report()]
    if dist.is_initialized():
        reports *= dist.get_world_size()
        dist.all_gather_object(reports, step.report())
    known = dict(enumerate(report for report in reports if report is not None))
    guilty = {rank: report for rank, report in known.items() if not report["finite"]}
    what = "the loss is not finite" if guilty else "the gradient is not finite, though the loss is"
    where = [
        (f"rank {rank}: " if len(known) > 1 else "") + ", ".join(report["samples"] or ["unknown samples"])
        for rank, report in (guilty or known).items()
    ]
    return f"{what} ({'; '.join(where)})"
