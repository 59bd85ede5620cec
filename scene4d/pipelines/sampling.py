"""How the diffusion model samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.references import are_both_given


@dataclass(frozen=True)
class Sampling:
    """How grids are sampled: number of steps, guidance, and the seed of the noise.

    The paper samples with 4 to 40 steps, without guidance where both videos are given and with it where one is
    missing, because the text must then say what the missing video would have shown (App. B).

    Args:
        steps: How many times the network is evaluated for one sample (twice as often with guidance).
        guidance: Weight of classifier-free guidance; 1 switches it off. Other weights need a prompt.
        guidance_alone: The weight for grids that lack the fixed-view or the freeze-time video; None means `guidance`.
        seed: Seed of the noise that sampling starts from.

    Raises:
        ValueError: `steps` is below 1, or a weight of guidance is not finite.
    """

    steps: int = 8
    guidance: float = 1.0
    guidance_alone: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling needs at least 1 step, got {self.steps}")
        for name in ("guidance", "guidance_alone"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise ValueError(f"sampling.{name} must be finite, got {getattr(self, name)}")

    def weights(self, reference: Bool[Tensor, "b v t"]) -> Float[Tensor, " b"]:
        """The weight of guidance for every grid."""
        alone = self.guidance if self.guidance_alone is None else self.guidance_alone
        return torch.where(are_both_given(reference), self.guidance, alone)
