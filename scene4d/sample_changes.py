"""Adds latents or a caption embedding to a sample that is encoded already; all else stays to the byte."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from scene4d.sample_arrays import LATENTS_NAME, LatentsEntry, encode_array, finite_half, latents_name
from scene4d.sample_format import read_meta


def add_latents(
    members: dict[str, bytes],
    latents: np.ndarray,
    autoencoder: str,
    size: tuple[int, int] | None = None,
    geometry: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Adds latents to an encoded sample, in place of those it may have; all else stays to the byte.

    Args:
        members: As `decode_sample` takes them.
        latents: `v z n y x` of all views, normalised, from frame 0 of the stored videos on; or `k v z n y x`, k
            variants of the clip.
        autoencoder: Fingerprint of what made them.
        size: Height and width of the pictures that were encoded; None is the stored size.
        geometry: One flag per variant, whether the stored cameras and depth are those of its pictures. None says so
            of all, and then there must be as many views as stored.

    Raises:
        ValueError: There are more or fewer views than stored, or a value is not finite in float16; names the key.
    """
    meta, key = read_meta(members), str(members["__key__"])
    variants = latents[None] if latents.ndim == 5 else latents
    flags = (True,) * len(variants) if geometry is None else tuple(geometry)
    if variants.ndim != 6 or (any(flags) and variants.shape[1] != meta["views"]):
        raise ValueError(
            f"sample {key!r} has {meta['views']} views, its latents v z n y x are {latents.shape}"
        )
    variants = finite_half(variants, key, "a latent")
    stored = size or (meta["height"], meta["width"])
    entry = LatentsEntry(autoencoder, variants.shape[2:], variants.shape[1], stored, flags)
    added = {
        latents_name(view, variant): encode_array(variants[variant, view])
        for variant, view in np.ndindex(variants.shape[:2])
    }
    kept, meta = _without(members, meta, [name for name in members if LATENTS_NAME.fullmatch(name)])
    return _with(kept, meta | {"latents": entry.to_json(meta)}, added)


def add_text(members: dict[str, bytes], text: np.ndarray | None, encoder: str) -> dict[str, Any]:
    """Puts a caption embedding into an encoded sample, in place of the one it may have; all else stays to the byte.

    Args:
        members: As `decode_sample` takes them.
        text: `l d` without padding; None leaves the sample without an embedding.
        encoder: Fingerprint of the text encoder that made it.

    Raises:
        ValueError: It is no matrix, or a value is not finite in float16; names the key.
    """
    meta, key = read_meta(members), str(members["__key__"])
    kept, meta = _without(members, meta, ["text.npy"])
    meta.pop("text", None)
    if text is None:
        return _with(kept, meta, {})
    if text.ndim != 2:
        raise ValueError(f"sample {key!r}: a caption embedding must be l d, is {text.shape}")
    data = encode_array(finite_half(text, key, "a caption embedding"))
    return _with(kept, meta | {"text": {"encoder": encoder, "shape": list(text.shape)}}, {"text.npy": data})


def _without(members: dict[str, bytes], meta: dict, names: Sequence[str]) -> tuple[dict[str, bytes], dict]:
    """The members and meta.json without some members and their checksums."""
    kept = {name: data for name, data in members.items() if name not in names}
    checksums = {name: value for name, value in meta.get("crc32", {}).items() if name not in names}
    return kept, meta | {"crc32": checksums} if "crc32" in meta else meta


def _with(members: dict[str, bytes], meta: dict, added: dict[str, bytes]) -> dict[str, Any]:
    """The members and `added`, with a meta.json that holds their checksums."""
    checksums = meta.get("crc32", {}) | {name: zlib.crc32(data) for name, data in added.items()}
    meta = meta | {"crc32": checksums} if checksums else meta
    return {**members, **added, "meta.json": json.dumps(meta).encode()}
