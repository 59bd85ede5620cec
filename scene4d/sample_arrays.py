"""Arrays in a sample: the caption embedding and the latents of its clips, as `.npy` members with a checksum.

    text.npy             float16 l x d; the entry `text` of meta.json names the encoder that made it
    latents_00.npy       float16 z x n x y x x of view 0, variant 0
    latents_00_01.npy    the same of variant 1: the clip with other colours, mirrored, or under other homographies

meta.json says in `latents` what they are, see `LatentsEntry`. An entry that would say nothing new is left out, so that
latents of the plain clip have the members and the entries that they had before there were variants.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LATENTS_NAME = re.compile(r"latents_\d+(_\d+)?\.npy")


@dataclass(frozen=True)
class LatentsEntry:
    """What meta.json says of the latents of a sample.

    Attributes:
        autoencoder: Fingerprint of the autoencoder.
        shape: `z n y x` of every view of every variant.
        views: Number of views; more than the stored ones where a 2D video was seen through homographies.
        size: Height and width of the pictures that were encoded.
        geometry: One flag per variant, whether the stored cameras and depth are still those of its pictures.
    """

    autoencoder: str
    shape: tuple[int, ...]
    views: int
    size: tuple[int, int]
    geometry: tuple[bool, ...] = (True,)

    @property
    def variants(self) -> int:
        """Number of variants."""
        return len(self.geometry)

    @staticmethod
    def of(meta: Mapping) -> LatentsEntry | None:
        """The entry of a checked meta.json; None without latents."""
        if "latents" not in meta:
            return None
        entry = meta["latents"]
        return LatentsEntry(
            autoencoder=entry["autoencoder"],
            shape=tuple(entry["shape"]),
            views=entry.get("views", meta["views"]),
            size=tuple(entry.get("size", (meta["height"], meta["width"]))),
            geometry=tuple(entry.get("geometry", (True,))),
        )

    def to_json(self, meta: Mapping) -> dict[str, object]:
        """The entry for meta.json, without what follows from the rest of `meta`."""
        entry: dict[str, object] = {"autoencoder": self.autoencoder, "shape": list(self.shape)}
        if self.views != meta["views"]:
            entry["views"] = self.views
        if self.size != (meta["height"], meta["width"]):
            entry["size"] = list(self.size)
        if self.geometry != (True,):
            entry["geometry"] = list(self.geometry)
        return entry


def latents_name(view: int, variant: int) -> str:
    """`latents_03.npy` of variant 0, `latents_03_01.npy` of variant 1."""
    return f"latents_{view:02d}.npy" if variant == 0 else f"latents_{view:02d}_{variant:02d}.npy"


def encode_array(array: np.ndarray) -> bytes:
    """An array as the bytes of a `.npy` file, in float16."""
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def finite_half(array: np.ndarray, key: str, what: str) -> np.ndarray:
    """The array in float16.

    Raises:
        ValueError: A value is not finite there; names the sample.
    """
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"sample {key!r}: {what} is not finite in float16")
    return half


def checked_member(members: Mapping[str, bytes], meta: Mapping, name: str) -> bytes:
    """A member whose checksum, where one is stored, agrees.

    Raises:
        ValueError: It is missing or its checksum is another; names the sample and the member.
    """
    if name not in members:
        raise ValueError(f"sample {members['__key__']!r} has no {name}")
    stored = meta.get("crc32", {}).get(name)
    if stored is not None and stored != zlib.crc32(members[name]):
        raise ValueError(f"sample {members['__key__']!r}: {name} is damaged, its checksum is another")
    return members[name]


def decode_text(members: Mapping[str, bytes], meta: Mapping) -> Float[np.ndarray, "l d"]:
    """The caption embedding.

    Raises:
        ValueError: It is damaged; names the sample.
    """
    text, key = _loaded(members, meta, "text.npy"), members["__key__"]
    try:
        text = text.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample {key!r}: text.npy cannot be decoded: {error}") from error
    if text.ndim != 2 or not np.isfinite(text).all():
        raise ValueError(f"sample {key!r}: text.npy must be finite numbers l d, is {text.shape}")
    return text


def decode_latents(
    members: Mapping[str, bytes], meta: Mapping, views: Sequence[int], variant: int
) -> Float[np.ndarray, "v z n y x"]:
    """Latents of some views of one variant, float16.

    Raises:
        ValueError: A member is missing, damaged, or of another shape than meta.json says; names sample and member.
    """
    return np.stack([_decode_view_latents(members, meta, latents_name(view, variant)) for view in views])


def _decode_view_latents(members: Mapping[str, bytes], meta: Mapping, name: str) -> np.ndarray:
    latents, key, shape = _loaded(members, meta, name), members["__key__"], tuple(meta["latents"]["shape"])
    if latents.shape != shape or latents.dtype != np.float16:
        raise ValueError(
            f"sample {key!r}: {name} is {latents.dtype} {latents.shape}, meta.json says float16 {shape}"
        )
    if not np.isfinite(latents).all():
        raise ValueError(f"sample {key!r}: {name} holds a value that is not finite")
    return latents


def _loaded(members: Mapping[str, bytes], meta: Mapping, name: str) -> np.ndarray:
    data = checked_member(members, meta, name)
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except Exception as error:  # numpy raises many types
        raise ValueError(f"sample {members['__key__']!r}: {name} cannot be decoded: {error}") from error
