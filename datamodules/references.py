"""Decides which frames of a diffusion grid are given: fixed-view video, freeze-time video, both or none."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Bool

from scene4d.references import WAYS, reference_mask


@dataclass(frozen=True)
class ReferencePolicy:
    """Gives references in one of four ways, with these probabilities (or any positive weights).

    Paper, App. B, on static scenes duplicated over time: "To prevent the model from learning a trivial
    solution that simply replicates the first frame across all views, we find it necessary to remove frame
    conditioning when using freeze-time videos." This project reads it so: a grid made from a static scene (a
    freeze-time video stacked over time) is trained without any reference frame, `none=1.0`. If its
    freeze-time column were given, the answer would be to copy it; if its fixed-view row were given, the
    network would learn that fixed-view videos carry no motion. The data configs set this for `static`.

    Args:
        both: Weight of giving row 0 and column 0.
        fixed_view: Weight of giving only row 0, the fixed-view video `grid[0, :]`.
        freeze_time: Weight of giving only column 0, the freeze-time video `grid[:, 0]`.
        none: Weight of giving nothing.

    Raises:
        ValueError: A weight is negative or all are zero.
    """

    both: float = 1.0
    fixed_view: float = 0.0
    freeze_time: float = 0.0
    none: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.both, self.fixed_view, self.freeze_time, self.none)
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"reference weights must be >= 0 and not all 0, got {weights}")

    def draw(self, views: int, frames: int, rng: Random) -> Bool[np.ndarray, "v t"]:
        """Draws a reference mask, True where a frame is given."""
        weights = (self.both, self.fixed_view, self.freeze_time, self.none)
        return reference_mask(rng.choices(WAYS, weights)[0], views, frames).numpy()
