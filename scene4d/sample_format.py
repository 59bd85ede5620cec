"""The format of one sample in a shard: a scene as mp4 or webp files, one per view, beside JSON and optional depth.

Members of a sample `KEY` in a WebDataset tar:

    KEY.meta.json       see `SceneSample`; the version is checked
    KEY.view_00.mp4     one video a view (H.264, 4:4:4), or
    KEY.view_00.webp    one lossless still a view, when the scene does not move (num_frames = 1), or
    KEY.view_00.avif    one video a view (AV1, 4:4:4), or a still: compact shards, which need no PyAV
    KEY.depth_00.png    16-bit planar z, the frames `depth_frames` stacked top to bottom; 0 = unknown
    KEY.text.npy        float16 caption embedding, l x d
    KEY.latents_00.npy  optional: float16 latents of that view's video, z n y x, as one autoencoder gives them;
                        further variants of the clip are latents_00_01.npy and so on, see `sample_arrays`

meta.json holds the CRC-32 of every other member, which is compared when the member is decoded (shards written
before that have none). Nothing is ever unpickled: the decoders are PyAV, Pillow, json and numpy with
allow_pickle=False.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scene4d.sample_arrays import (
    LatentsEntry,
    decode_latents,
    decode_text,
    encode_array,
)
from scene4d.sample_meta import camera_problems, check_fps, check_meta
from scene4d.sample_pictures import decode_depth, decode_view, encode_depth, encode_view

FORMAT_VERSION = 1
KEY_LENGTH = 200  # bytes of UTF-8; a member's name is the key and an ending, and file systems allow 255


@dataclass
class SceneSample:
    """One scene as numpy arrays; `v` views of `t` frames (t = 1: a still scene, duplicated by the reader).

    Attributes:
        key: Unique name, without dots or slashes.
        source: objects, physics, homography, static or capture.
        images: uint8 `v t h w 3`. A 2D video has v = 1; its views are made when it is read.
        fps: Frames a second; frame k is at k / fps seconds.
        c2w: float32 `v 4 4`, OpenCV camera-to-world; None where unknown.
        intrinsics: float32 `v 3 3` in pixels of these images, pixel centres at +0.5; None where unknown.
        depths: float32 `v n h w`, planar z in scene units at `depth_frames`, 0 = unknown; None if absent.
        depth_frames: The n frame indices that have depth.
        caption: Plain text.
        text: float32 `l d` caption embedding, or None.
        text_encoder: Fingerprint of the text encoder that made `text`; empty where unknown.
        group: Content group; held-out splits never share one with training.
        license: SPDX name and attribution of what is shown.
        views: Indices of the stored views that `images` holds (all of them unless a selection was decoded).
        latents: float16 `v z n y x`, normalised latents of one variant of the videos from frame 0 on; None unless
            they were asked for. Then `images` has the shape of the pictures, but is black and takes no memory.
        autoencoder: Fingerprint of the autoencoder that made the latents.
        view_names: Names of the cameras that took the views; empty where the data set has none.
    """

    key: str
    source: str
    images: np.ndarray
    fps: float
    c2w: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    depths: np.ndarray | None = None
    depth_frames: list[int] = field(default_factory=list)
    caption: str = ""
    text: np.ndarray | None = None
    group: str = ""
    license: str = ""
    views: list[int] = field(default_factory=list)
    latents: np.ndarray | None = None
    autoencoder: str = ""
    view_names: list[str] = field(default_factory=list)
    text_encoder: str = ""


def encode_sample(sample: SceneSample, crf: int = 12, avif: int | None = None) -> dict[str, Any]:
    """Encodes a scene as the members of one WebDataset sample; latents are added later, by `scene4d.sample_changes`.

    Args:
        sample: All views of a scene, with their pictures.
        crf: H.264 constant rate factor, 0 (lossless) to 51.
        avif: Quality of AVIF, 0 to 100, in place of H.264 and of lossless stills; None is those.

    Returns:
        `{"__key__": key, "meta.json": bytes, "view_00.mp4": bytes, ...}` for `webdataset.TarWriter`.

    Raises:
        ValueError: The key holds a dot or slash, shapes disagree, there are latents, or `check_meta` refuses a value;
            names the key.
    """
    _check(sample)
    v, t, h, w, _ = sample.images.shape
    members: dict[str, Any] = {"meta.json": b""}  # comes first in the shard
    scale = 0.0
    if sample.depths is not None:
        scale = float(sample.depths.max()) / 65535 or 1.0
    meta = {
        "version": FORMAT_VERSION, "source": sample.source, "views": v, "frames": t, "height": h, "width": w,
        "fps": sample.fps, "caption": sample.caption, "group": sample.group, "license": sample.license,
        "c2w": None if sample.c2w is None else np.asarray(sample.c2w, float).round(7).tolist(),
        "intrinsics": None if sample.intrinsics is None else np.asarray(sample.intrinsics, float).round(6).tolist(),
        "depth_scale": scale, "depth_frames": [int(k) for k in sample.depth_frames],
    }  # fmt: skip
    if sample.view_names:
        meta["view_names"] = sample.view_names
    for k in range(v):
        ending, data = encode_view(sample.images[k], sample.fps, crf, avif)
        members[f"view_{k:02d}.{ending}"] = data
        if sample.depths is not None:
            stacked = np.round(sample.depths[k].reshape(-1, w) / scale).astype(np.uint16)
            members[f"depth_{k:02d}.png"] = encode_depth(stacked)
    if sample.text is not None:
        members["text.npy"] = encode_array(sample.text)
        if sample.text_encoder:
            meta["text"] = {"encoder": sample.text_encoder}
    meta["crc32"] = {name: zlib.crc32(data) for name, data in members.items() if name != "meta.json"}
    members["meta.json"] = json.dumps(meta).encode()
    encoded = {"__key__": sample.key, **members}
    read_meta(encoded)  # what could not be read is not written
    return encoded


def read_meta(members: dict[str, bytes]) -> dict:
    """Parses and checks `meta.json`, see `check_meta`, and refuses keys that the format does not allow.

    Raises:
        ValueError: Missing, unreadable, of another format version, with an entry that is damaged, or with a key that
            `check_key` refuses; names the key.
    """
    key = members.get("__key__", "?")
    check_key(str(key))
    if "meta.json" not in members:
        raise ValueError(f"sample {key!r} has no meta.json; is this a shard of scene4d samples?")
    try:
        meta = json.loads(members["meta.json"])
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"sample {key!r}: meta.json is not JSON: {error}") from error
    if not isinstance(meta, dict) or meta.get("version") != FORMAT_VERSION:
        found = meta.get("version") if isinstance(meta, dict) else type(meta).__name__
        raise ValueError(f"sample {key!r} has format version {found!r}, expected {FORMAT_VERSION}")
    try:
        check_meta(meta)
    except ValueError as error:
        raise ValueError(f"sample {key!r}: {error}") from error
    return meta


def decode_sample(
    members: dict[str, bytes],
    views: Sequence[int] | None = None,
    depth: bool = True,
    latents: bool = False,
    variant: int = 0,
) -> SceneSample:
    """Decodes one WebDataset sample; the inverse of `encode_sample` up to compression.

    Args:
        members: Raw bytes by member name, as `webdataset.WebDataset` yields them undecoded.
        views: Which stored views to decode, in this order; None = all.
        depth: Whether to decode depth.
        latents: Whether to decode stored latents instead of the pictures. Views are then those of the latents, and
            there are neither cameras nor depth where the stored ones are not those of the variant.
        variant: Which variant of the latents to decode.

    Raises:
        ValueError: A member is missing, unreadable or of another size than meta.json says, or latents or a variant are
            asked for that are not there; names the sample and the member.
    """
    meta = read_meta(members)
    key = str(members["__key__"])
    entry = latents_entry(meta, key) if latents else None
    if entry and not 0 <= variant < entry.variants:
        raise ValueError(f"sample {key!r} has {entry.variants} variants of latents, asked for {variant}")
    stored = entry.views if entry else meta["views"]
    chosen = list(range(stored)) if views is None else [int(k) for k in views]
    if any(not 0 <= k < stored for k in chosen):
        raise ValueError(f"sample {key!r} has {stored} views, asked for {chosen}")
    if entry:
        images = np.broadcast_to(np.uint8(0), (len(chosen), meta["frames"], *entry.size, 3))
    else:
        images = np.stack([decode_view(members, meta, k) for k in chosen])
    geometry = entry is None or entry.geometry[variant]
    depths = None
    if depth and geometry and meta["depth_frames"]:
        stacked = [decode_depth(members, meta, k) for k in chosen]
        shape = (len(chosen), len(meta["depth_frames"]), meta["height"], meta["width"])
        depths = np.stack(stacked).reshape(shape).astype(np.float32) * np.float32(meta["depth_scale"])
    c2w, intrinsics = (
        None if meta[name] is None or not geometry else np.asarray(meta[name], np.float32)[chosen]
        for name in ("c2w", "intrinsics")
    )
    has_text = "text.npy" in members
    return SceneSample(
        key=key, source=meta["source"], images=images, fps=meta["fps"], c2w=c2w, intrinsics=intrinsics,
        depths=depths, depth_frames=meta["depth_frames"] if geometry else [], caption=meta["caption"],
        text=decode_text(members, meta) if has_text else None,
        text_encoder=meta.get("text", {}).get("encoder", "") if has_text else "",
        group=meta["group"], license=meta["license"], views=chosen,
        latents=decode_latents(members, meta, chosen, variant) if entry else None,
        autoencoder=entry.autoencoder if entry else "",
        view_names=_view_names(meta, chosen, key) if stored == meta["views"] else [],
    )  # fmt: skip


def latents_entry(meta: dict, key: str) -> LatentsEntry:
    """What `read_meta` found out about the latents of a sample.

    Raises:
        ValueError: It has none; names the sample.
    """
    entry = LatentsEntry.of(meta)
    if entry is None:
        raise ValueError(f"sample {key!r} has no latents; preparation.latents adds them")
    return entry


def _view_names(meta: dict, views: Sequence[int], key: str) -> list[str]:
    names = meta.get("view_names") or []
    if names and len(names) != meta["views"]:
        raise ValueError(f"sample {key!r} has {meta['views']} views, but {len(names)} view_names")
    return [str(names[k]) for k in views] if names else []


def check_key(key: str) -> None:
    """Refuses keys that could lead out of a folder or could not be written down.

    Raises:
        ValueError: Empty, with dots, slashes or control characters, no UTF-8, or longer than 200 bytes; names the key.
    """
    shown = repr(key if len(key) <= KEY_LENGTH else f"{key[:40]}...")
    if not key or any(c in "./\\" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in key):
        raise ValueError(
            f"sample key {shown} must be non-empty UTF-8 without dots, slashes and control characters"
        )
    if len(key.encode()) > KEY_LENGTH:
        raise ValueError(f"sample key {shown} has {len(key.encode())} bytes, at most {KEY_LENGTH} are read")


def _check(sample: SceneSample) -> None:
    check_key(sample.key)
    if sample.images.ndim != 5 or sample.images.shape[-1] != 3 or sample.images.dtype != np.uint8:
        raise ValueError(
            f"{sample.key}: images must be uint8 v t h w 3, got {sample.images.dtype} {sample.images.shape}"
        )
    if sample.view_names and len(sample.view_names) != len(sample.images):
        raise ValueError(f"{sample.key}: {len(sample.images)} views, but view_names {sample.view_names}")
    if sample.latents is not None:
        raise ValueError(f"{sample.key}: was decoded with latents and without pictures, cannot be encoded")
    v, t, h, w, _ = sample.images.shape
    for name, value, shape in (("c2w", sample.c2w, (v, 4, 4)), ("intrinsics", sample.intrinsics, (v, 3, 3))):
        if value is not None and (value.shape != shape or not np.isfinite(value).all()):
            raise ValueError(f"{sample.key}: {name} must be finite {shape}, got {value.shape}")
    try:
        check_fps(sample.fps)
    except ValueError as error:
        raise ValueError(f"{sample.key}: {error}") from error
    if problems := camera_problems(sample.c2w, sample.intrinsics):
        raise ValueError(f"{sample.key}: {'; '.join(problems)}")
    if sample.depths is not None:
        expected = (v, len(sample.depth_frames), h, w)
        if sample.depths.shape != expected or any(not 0 <= k < t for k in sample.depth_frames):
            raise ValueError(
                f"{sample.key}: depths must be {expected} at frames < {t}, got {sample.depths.shape}"
            )
        if not (sample.depths >= 0).all() or not np.isfinite(sample.depths).all():
            raise ValueError(f"{sample.key}: depths must be finite and at least 0, which means unknown")
