"""Meshes of G3D files at any time, between their key frames, lit and textured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from preparation.rendering.mesh_renderer import Mesh, light_factor
from preparation.rendering.upright import z_up
from preparation.synthetic.g3d import G3DMesh, read_g3d
from scene4d.pictures import open_picture

TEXTURE_SIZE = 128


def drawable_meshes(path: Path) -> list[G3DMesh]:
    """Reads the meshes of a file that have vertices in at least one key frame."""
    return [mesh for mesh in read_g3d(path) if mesh.vertices.size]


def key_frame_times(
    key_frames: int, loops: bool, rng: np.random.Generator, frames: int
) -> Float[ndarray, "t"]:
    """Draws `frames` evenly spaced positions in an animation, in units of key frames.

    Loops show half a cycle to a whole one from any phase; their positions may exceed the last key frame and are
    taken modulo. One-way animations show at least 0.7 of themselves.
    """
    if loops:
        span, start = rng.uniform(0.5, 1) * key_frames, rng.uniform(0, key_frames)
    else:
        span = rng.uniform(0.7, 1) * (key_frames - 1)
        start = rng.uniform(0, key_frames - 1 - span)
    return start + span * np.linspace(0, 1, frames)


def between_key_frames(
    values: Float32[ndarray, "k n 3"], position: float, loops: bool
) -> Float32[ndarray, "n 3"]:
    """Interpolates linearly; beyond the last key frame it goes on to the first (loops) or stays."""
    before = int(np.floor(position))
    weight = np.float32(position - before)
    if loops:
        before, after = before % len(values), (before + 1) % len(values)
    else:
        before, after = min(before, len(values) - 1), min(before + 1, len(values) - 1)
    return (1 - weight) * values[before] + weight * values[after]


def clip_meshes(path: Path, times: Float[ndarray, "t"], loops: bool) -> list[list[Mesh]]:
    """Poses and lights the meshes of a file at every time, in units of key frames, with z up."""
    sources = drawable_meshes(path)
    textures = [
        _texture(path.parent / s.texture) if s.texture and s.uv is not None else None for s in sources
    ]
    return [[_mesh_at(s, x, t, loops) for s, x in zip(sources, textures)] for t in times]


def _mesh_at(source: G3DMesh, texture: UInt8[ndarray, "h w 3"] | None, position: float, loops: bool) -> Mesh:
    return Mesh(
        vertices=z_up(between_key_frames(source.vertices, position, loops)),
        faces=source.faces,
        shade=light_factor(z_up(between_key_frames(source.normals, position, loops))),
        uv=source.uv if texture is not None else None,
        texture=texture,
        color=(1.0, 1.0, 1.0) if texture is not None else source.color,
    )


@lru_cache(maxsize=64)
def _texture(path: Path) -> UInt8[ndarray, "h w 3"]:
    """Reads the colours of a texture file, at most `TEXTURE_SIZE` pixels along its longer side."""
    image = open_picture(path).convert("RGB")
    longest = max(image.size)
    if longest > TEXTURE_SIZE:
        width, height = (max(1, round(side * TEXTURE_SIZE / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.array(image)
