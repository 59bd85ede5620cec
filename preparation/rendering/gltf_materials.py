"""The colours of a glTF material: base colour, its texture, opacity and sides; reflections and glow are left out.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (section 3.9)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from preparation.rendering.gltf_arrays import GltfArrays
from preparation.rendering.mesh_renderer import COVERAGE
from scene4d.pictures import open_picture

TEXTURE_SIZE = 512  # pixels; the samples of a small render cannot show more
CLAMP, MIRROR = 33071, 33648


@dataclass(frozen=True)
class Material:
    """What one material looks like without light.

    Attributes:
        color: sRGB in [0, 1].
        opacity: Opacity in [0, 1].
        texture: sRGB colours, with opacity where it counts.
        coordinates: Name of the attribute with the texture coordinates.
        transform: Turns texture coordinates (u, v, 1), (0, 0) at the top left, into those of `texture`.
        clamped: Whether u and v end at the border of the texture.
        lit: Whether lamps change the colour.
        double_sided: Whether the back of a face is seen.
        cutout: See `Mesh`.
    """

    color: tuple[float, float, float]
    opacity: float
    texture: UInt8[ndarray, "th tw c"] | None
    coordinates: str
    transform: Float[ndarray, "2 3"]
    clamped: tuple[bool, bool]
    lit: bool
    double_sided: bool
    cutout: float | None

    def uv(self, coordinates: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Turns texture coordinates of glTF into those of `Mesh`, (0, 0) at the bottom left."""
        placed = coordinates @ self.transform[:, :2].T + self.transform[:, 2]
        if self.texture is not None:
            border = 0.5 / np.array(self.texture.shape[1::-1])
            placed = np.where(self.clamped, placed.clip(border, 1 - border), placed)
        return placed * [1, -1] + [0, 1]


def read_material(arrays: GltfArrays, number: int | None) -> Material:
    """Reads a material; None stands for the white one of the specification.

    Raises:
        ValueError: Its texture has no picture that can be read; names the file.
    """
    found = {} if number is None else arrays.file.document["materials"][number]
    extensions = found.get("extensions", {})
    base = found.get("pbrMetallicRoughness", {})
    factor, place = base.get("baseColorFactor", [1, 1, 1, 1]), base.get("baseColorTexture")
    if "KHR_materials_pbrSpecularGlossiness" in extensions:
        base = extensions["KHR_materials_pbrSpecularGlossiness"]
        factor, place = base.get("diffuseFactor", [1, 1, 1, 1]), base.get("diffuseTexture")
    mode = found.get("alphaMode", "OPAQUE")
    cutout = {"MASK": found.get("alphaCutoff", 0.5), "BLEND": COVERAGE}.get(mode)
    texture, wraps = _texture(arrays, place["index"], mode != "OPAQUE") if place else (None, (0, 0))
    moved = (place or {}).get("extensions", {}).get("KHR_texture_transform", {})
    transform = _transform(moved)
    if texture is not None:
        texture, transform = _mirrored(texture, transform, wraps)
    red, green, blue = (float(x) for x in srgb(np.asarray(factor[:3], float)))
    return Material(
        (red, green, blue), float(factor[3]), texture,
        f"TEXCOORD_{moved.get('texCoord', (place or {}).get('texCoord', 0))}", transform,
        (wraps[0] == CLAMP, wraps[1] == CLAMP), "KHR_materials_unlit" not in extensions,
        found.get("doubleSided", False), cutout,
    )  # fmt: skip


def srgb(linear: Float[ndarray, "..."]) -> Float[ndarray, "..."]:
    """Encodes linear light in [0, 1] as sRGB (IEC 61966-2-1)."""
    light = np.clip(linear, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _texture(
    arrays: GltfArrays, number: int, alpha: bool
) -> tuple[UInt8[ndarray, "th tw c"], tuple[int, int]]:
    """Returns the picture of a texture and how it goes on beyond its borders along u and v."""
    document = arrays.file.document
    texture = document["textures"][number]
    source = (
        texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
    )
    if source is None:
        kinds = ", ".join(texture.get("extensions", {})) or "no picture"
        raise ValueError(f"{arrays.file.path}: texture {number} has {kinds}; expected PNG, JPEG or WebP")
    item = document["images"][source]
    data = arrays.view(item["bufferView"]) if "bufferView" in item else arrays.file.data(item)
    sampler = document["samplers"][texture["sampler"]] if "sampler" in texture else {}
    try:
        picture = _picture(data, alpha)
    except OSError as error:
        raise ValueError(f"{arrays.file.path}: image {source} cannot be read: {error}") from error
    return picture, (sampler.get("wrapS", 0), sampler.get("wrapT", 0))


@lru_cache(maxsize=8)
def _picture(data: bytes, alpha: bool) -> UInt8[ndarray, "th tw c"]:
    """Decodes a picture, at most `TEXTURE_SIZE` pixels along its longer side."""
    image = open_picture(BytesIO(data)).convert("RGBA" if alpha else "RGB")
    if max(image.size) > TEXTURE_SIZE:
        width, height = (max(1, round(side * TEXTURE_SIZE / max(image.size))) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.array(image)


def _transform(moved: dict) -> Float[ndarray, "2 3"]:
    """Returns translation * rotation * scale of KHR_texture_transform."""
    angle = moved.get("rotation", 0.0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn * moved.get("scale", [1, 1]), moved.get("offset", [0, 0])])


def _mirrored(
    texture: UInt8[ndarray, "th tw c"], transform: Float[ndarray, "2 3"], wraps: tuple[int, int]
) -> tuple[UInt8[ndarray, "th tw c"], Float[ndarray, "2 3"]]:
    """Joins a texture that is mirrored at its borders with its mirror image, and halves the coordinates."""
    transform = transform.copy()
    for axis, wrap in enumerate(wraps):
        if wrap == MIRROR:
            texture = np.concatenate([texture, np.flip(texture, 1 - axis)], 1 - axis)
            transform[axis] /= 2
    return texture, transform
