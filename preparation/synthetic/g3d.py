"""Reader of G3D version 4, the animated mesh format of the game MegaGlest.

A file is a header (`G3D`, version, mesh count, type) followed by meshes. Every mesh stores the vertex positions and
normals of all its key frames, right-handed with y up. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32
from numpy import ndarray

NAME_BYTES = 64
TEXTURE_SLOTS = 5


@dataclass
class G3DMesh:
    """One mesh of a model, y up.

    Attributes:
        name: Name that its author gave it.
        vertices: Vertex positions at every key frame.
        normals: Vertex normals at every key frame, about of unit length.
        faces: Vertex indices of every triangle.
        uv: Texture coordinates, (0, 0) at the bottom left; None if there are no textures.
        texture: File name of the colour texture beside the model; None if there is none.
        color: Diffuse RGB in [0, 1], meant for meshes without a texture.
    """

    name: str
    vertices: Float32[ndarray, "k n 3"]
    normals: Float32[ndarray, "k n 3"]
    faces: Int32[ndarray, "m 3"]
    uv: Float32[ndarray, "n 2"] | None
    texture: str | None
    color: tuple[float, float, float]


class _Cursor:
    """Walks through the bytes of a file and says where it ended too early."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.offset = data, path, 0

    def take(self, size: int, what: str) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise ValueError(
                f"{self.path}: truncated, {what} needs {end} bytes, the file has {len(self.data)}"
            )
        taken, self.offset = self.data[self.offset : end], end
        return taken

    def unpack(self, layout: str, what: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def text(self, what: str) -> str:
        return self.take(NAME_BYTES, what).split(b"\0")[0].decode("latin1")

    def array(self, dtype: str, shape: tuple[int, ...], what: str) -> ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.take(size, what), dtype).reshape(shape)


def read_g3d(path: str | Path) -> list[G3DMesh]:
    """Reads all meshes of a model.

    Raises:
        ValueError: The file is not G3D version 4, is truncated, has bytes left over, or has indices that no vertex
            has; names the file and the place.
    """
    path = Path(path)
    cursor = _Cursor(path.read_bytes(), path)
    magic, version = cursor.unpack("<3sB", "the header")
    if magic != b"G3D" or version != 4:
        raise ValueError(f"{path}: expected G3D version 4, found {magic!r} version {version}")
    mesh_count, _ = cursor.unpack("<HB", "the mesh count")
    meshes = [_read_mesh(cursor, index) for index in range(mesh_count)]
    if cursor.offset != len(cursor.data):
        raise ValueError(
            f"{path}: {len(cursor.data) - cursor.offset} bytes left over after {mesh_count} meshes"
        )
    return meshes


def _read_mesh(cursor: _Cursor, index: int) -> G3DMesh:
    what = f"mesh {index}"
    name = cursor.text(what)
    frames, vertex_count, index_count = cursor.unpack("<3I", what)
    color = cursor.unpack("<3f", what)
    cursor.take(struct.calcsize("<3f2fI"), what)  # specular colour and power, opacity, flags
    (texture_bits,) = cursor.unpack("<I", what)
    textures = [cursor.text(what) if texture_bits >> slot & 1 else None for slot in range(TEXTURE_SLOTS)]
    vertices = cursor.array("<f4", (frames, vertex_count, 3), f"{what} ({name}), vertices")
    normals = cursor.array("<f4", (frames, vertex_count, 3), f"{what} ({name}), normals")
    uv = cursor.array("<f4", (vertex_count, 2), f"{what} ({name}), uv") if texture_bits else None
    if index_count % 3:
        raise ValueError(
            f"{cursor.path}: mesh {index} ({name}) has {index_count} indices, not a multiple of 3"
        )
    faces = cursor.array("<u4", (index_count // 3, 3), f"{what} ({name}), indices")
    if index_count and faces.max() >= vertex_count:
        raise ValueError(
            f"{cursor.path}: mesh {index} ({name}) indexes vertex {faces.max()} of {vertex_count}"
        )
    return G3DMesh(name, vertices, normals, faces.astype(np.int32), uv, textures[0], color)
