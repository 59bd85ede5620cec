"""Learning-rate schedules, stepped once a batch."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then a cosine from the full rate to a fraction of it; constant afterwards.

    Args:
        optimizer: What is scheduled.
        warmup_steps: Steps of the warm-up.
        total_steps: Step at which the cosine ends.
        final: Fraction of the full rate that is left at the end.

    Raises:
        ValueError: `total_steps` is not greater than `warmup_steps`.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 100, total_steps: int = 1000, final: float = 0.0
    ) -> None:
        if total_steps <= warmup_steps:
            raise ValueError(f"total_steps = {total_steps} must exceed warmup_steps = {warmup_steps}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
