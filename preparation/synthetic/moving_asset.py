"""What scenes may show that moves by itself, wherever it comes from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh


class MovingAsset(Protocol):
    """One animation of one unit."""

    @property
    def key(self) -> str:
        """A name that no other animation has."""

    @property
    def unit(self) -> str:
        """A name that all animations of one unit have; units take turns."""

    @property
    def label(self) -> str:
        """English noun."""

    @property
    def caption(self) -> str:
        """A caption such as "a golem attacking"."""

    @property
    def group(self) -> str:
        """Name of the content group, which is in one split only."""

    @property
    def license(self) -> str:
        """SPDX name and attribution."""

    def times(self, rng: np.random.Generator, frames: int, fps: float) -> Float[ndarray, "t"]:
        """Draws evenly spaced instants for a clip of so many frames per second."""

    def meshes(self, times: Float[ndarray, "t"]) -> list[list[Mesh]]:
        """Poses and lights the unit at every instant, with z up."""
