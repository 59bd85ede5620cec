"""What the ranks of a training have measured of themselves, and what it means for all of them."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

PARTS = ("data", "forward", "backward", "optimizer")


@dataclass
class RankTimes:
    """What one rank has measured since the last time.

    Attributes:
        steps: Number of optimizer steps that it has timed.
        parts: Seconds of all these steps together, of `PARTS`.
        own: Seconds of these steps that it did not wait for other ranks: for data, and in the forward pass of blocks.
        work: Floating point operations of these steps, in units of 10^12.
        memory: Peak memory, in GB.
    """

    steps: int
    parts: list[float]
    own: float
    work: float
    memory: float


def rank_figures(ranks: Sequence[RankTimes], peak: float | None) -> dict[str, float]:
    """Figures to log, see `StepTimes`; none if no rank has timed a step.

    Args:
        ranks: What every rank has measured, in the order of ranks.
        peak: Peak of one device in TFLOP/s.
    """
    timed = {rank: times for rank, times in enumerate(ranks) if times.steps}
    if not timed:
        return {}
    means = [fmean(times.parts[k] / times.steps for times in timed.values()) for k in range(len(PARTS))]
    whole = sum(sum(times.parts) for times in timed.values())
    figures = {f"train/seconds_{name}": x for name, x in zip(PARTS, means)}
    figures |= {f"train/share_{name}": x / max(sum(means), 1e-9) for name, x in zip(PARTS, means)}
    figures["train/tflops_per_second"] = rate = sum(x.work for x in timed.values()) / max(whole, 1e-9)
    if peak is not None:
        figures["train/mfu"] = rate / peak
    figures["train/memory_gb"] = max(times.memory for times in ranks)
    return figures | (_straggler(timed) if len(ranks) > 1 else {})


def _straggler(timed: dict[int, RankTimes]) -> dict[str, float]:
    """The slowest rank, and how slow it is."""
    own = {rank: times.own / times.steps for rank, times in timed.items()}
    slowest = max(own, key=lambda rank: own[rank])
    return {
        "train/seconds_data_slowest": max(times.parts[0] / times.steps for times in timed.values()),
        "train/straggler_spread": own[slowest] / max(median(own.values()), 1e-9),
        "train/straggler_rank": float(slowest),
    }


def peak_memory(device: torch.device) -> float:
    """Peak of allocated CUDA memory since the last call, or of the process's resident memory since its start; GB."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
