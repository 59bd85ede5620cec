"""Worlds with y up, as files store them, are turned into worlds with z up."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def z_up(points: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n 3"]:
    """Turns y up into z up by a quarter turn about x, not by a mirror."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], -1)
