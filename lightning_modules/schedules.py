"""Learning-rate schedules, stepped after every optimizer step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scene4d.stages import Stage


class WarmupCosine(LambdaLR):
    """Raises the rate linearly, then lowers it along a cosine to a fraction of the full rate, where it stays.

    Args:
        optimizer: The optimizer whose rates are scheduled.
        total_steps: Optimizer step at which the cosine ends; the LightningModules give the trainer's `max_steps`.
        warmup_steps: Optimizer steps of the warm-up.
        final: Fraction of the full rate that is left at the end, in [0, 1].

    Raises:
        ValueError: `total_steps` is not greater than `warmup_steps`.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 100, final: float = 0.0
    ) -> None:
        if total_steps <= warmup_steps:
            raise ValueError(
                f"the run has {total_steps} steps (trainer.max_steps), which must exceed lr_scheduler's warmup_steps = "
                f"{warmup_steps} (model.init_args.lr_scheduler.init_args.warmup_steps)"
            )

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)


class StagedWarmup(LambdaLR):
    """Raises the rate linearly at the beginning of every stage and keeps it until the next one.

    Args:
        optimizer: The optimizer whose rates are scheduled.
        stages: At least one; behind the last one its rate stays.
    """

    def __init__(self, optimizer: Optimizer, stages: Sequence[Stage]) -> None:
        begins = [0, *(stage.until for stage in stages[:-1])]

        def factor(step: int, full: float) -> float:
            number = bisect_right(begins, step) - 1
            stage, warmup = stages[number], stages[number].warmup_steps
            rate = 1.0 if stage.lr is None else stage.lr / full
            return rate * min(1.0, (step - begins[number] + 1) / max(warmup, 1))

        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer, [partial(factor, full=rate) for rate in rates])
