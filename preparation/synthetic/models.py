"""Things that do not move by themselves: models of one size, with the convex hull that they collide with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import trimesh
from jaxtyping import Float, Float32
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh
from preparation.rendering.parts import Part

MOST_FACES = 20_000
THINNEST = 0.12


class StillAsset(Protocol):
    """Something that does not move by itself."""

    @property
    def name(self) -> str:
        """A name that nothing else has."""

    @property
    def label(self) -> str:
        """English noun."""

    @property
    def attribution(self) -> str:
        """A line that satisfies its licence."""

    def load(self) -> Model:
        """Reads it; raises ValueError when it cannot be used."""


@dataclass(frozen=True)
class Model:
    """A loaded model: bounding box centred on the origin, longest edge 1, z up.

    Attributes:
        entry: Where it comes from.
        parts: Triangles of every material.
        extents: Edges of the bounding box.
        hull: At most 200 corners of its convex hull.
    """

    entry: StillAsset
    parts: tuple[Part, ...]
    extents: Float32[ndarray, "3"]
    hull: Float32[ndarray, "k 3"]

    def posed(
        self,
        rotation: Float[ndarray, "3 3"],
        position: Float[ndarray, "3"],
        scale: float,
        lamps: tuple[ndarray, ndarray],
    ) -> list[Mesh]:
        """Places the model in the world.

        Args:
            rotation: Turns the model into the world.
            position: Centre of the bounding box in the world.
            scale: Longest edge in the world, scene units.
            lamps: Directions `k 3` and strengths `k`, see `light_factor`.
        """
        return [mesh for part in self.parts for mesh in part.placed(rotation, position, scale).meshes(lamps)]


def largest_side(name: str, extents: Float32[ndarray, "3"]) -> float:
    """Returns the longest edge of a bounding box.

    Raises:
        ValueError: The box is not finite, or so thin that it can hardly be seen; calls it `name`.
    """
    if not np.isfinite(extents).all() or sorted(extents)[1] < THINNEST * extents.max():
        raise ValueError(f"{name} has extents {extents.tolist()}: too thin to be seen")
    return extents.max()


def thin_hull(points: Float32[ndarray, "n 3"], corners: int = 200) -> Float32[ndarray, "k 3"]:
    """Returns corners of the convex hull, thinned to the farthest ones along evenly spread directions."""
    try:
        hull = np.asarray(trimesh.convex.convex_hull(points).vertices, np.float32)
    except Exception as error:  # scipy's QhullError and ValueError alike
        raise ValueError(f"no convex hull: {error}") from error
    if len(hull) <= corners:
        return hull
    index = np.arange(corners) + 0.5
    polar, turn = np.arccos(1 - 2 * index / corners), np.pi * (1 + 5**0.5) * index
    directions = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1)
    return hull[np.unique((hull @ directions.T).argmax(0))]
