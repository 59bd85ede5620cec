"""Triangles of one material that wait for their place in the world and for light."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray

from preparation.rendering.mesh_renderer import LIGHT_DIRECTIONS, LIGHT_STRENGTHS, Mesh, light_factor

LAMPS = (LIGHT_DIRECTIONS, LIGHT_STRENGTHS)


@dataclass(frozen=True)
class Part:
    """Triangles of one material, z up; what is not described here is as in `Mesh`.

    Attributes:
        vertices: Positions.
        normals: Normals of any length.
        faces: Vertex indices of every triangle.
        uv: Texture coordinates.
        texture: Picture.
        color: RGB in [0, 1].
        tint: sRGB colour and opacity of every vertex, which multiply the others.
        lit: Whether lamps change the colour.
        sides: `front` draws only faces that are seen counter-clockwise. `both` draws the others too and lights them
            from their own side. `any` draws both with the light of the front.
        opacity: Multiplies the fourth channel of the texture.
        cutout: How opacity is drawn.
    """

    vertices: Float32[ndarray, "n 3"]
    normals: Float32[ndarray, "n 3"]
    faces: Int32[ndarray, "m 3"]
    uv: Float32[ndarray, "n 2"] | None
    texture: UInt8[ndarray, "th tw c"] | None
    color: tuple[float, float, float]
    tint: Float32[ndarray, "n 4"] | None = None
    lit: bool = True
    sides: Literal["any", "front", "both"] = "any"
    opacity: float = 1.0
    cutout: float | None = None

    def placed(self, rotation: Float[ndarray, "3 3"], position: Float[ndarray, "3"], scale: float) -> Part:
        """Scales the part, then turns it, then moves it."""
        turn = np.asarray(rotation, np.float32)
        vertices = (self.vertices * np.float32(scale)) @ turn.T + np.asarray(position, np.float32)
        return replace(self, vertices=vertices, normals=self.normals @ turn.T)

    def meshes(self, lamps: tuple[ndarray, ndarray] = LAMPS) -> list[Mesh]:
        """Lights the part: one mesh, or one for each side.

        Args:
            lamps: Directions `k 3` and strengths `k`, see `light_factor`.
        """
        front = self._mesh(self.faces, self.normals, lamps)
        if self.sides != "both" or not self.lit:
            return [front]
        return [front, self._mesh(self.faces[:, ::-1], -self.normals, lamps)]

    def _mesh(
        self, faces: Int32[ndarray, "m 3"], normals: Float32[ndarray, "n 3"], lamps: tuple[ndarray, ndarray]
    ) -> Mesh:
        light = light_factor(normals, *lamps) if self.lit else np.ones(len(normals), np.float32)
        if self.tint is not None:
            light = np.concatenate([self.tint[:, :3] * light[:, None], self.tint[:, 3:]], 1)
        culled = self.sides == "front" or (self.sides == "both" and self.lit)
        return Mesh(
            self.vertices, faces, light, self.uv, self.texture, self.color, self.opacity, self.cutout, culled
        )
