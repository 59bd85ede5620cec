"""Views and depth of a sample as bytes: H.264, AVIF, WebP and PNG."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from scene4d.avif_video import decode_avif, encode_avif
from scene4d.pictures import open_picture
from scene4d.sample_arrays import checked_member
from scene4d.video_files import write_h264
from scene4d.video_files.colours import BT601, RGBFrames
from scene4d.video_files.streams import open_alone


def encode_view(
    frames: UInt8[np.ndarray, "t h w 3"], fps: float, crf: int, avif: int | None
) -> tuple[str, bytes]:
    """Encodes one view, and says what its member's name ends with.

    Args:
        frames: One frame is a still.
        fps: Frames per second.
        crf: H.264 constant rate factor.
        avif: Quality of AVIF, in place of H.264 and of lossless stills; None is those.
    """
    if avif is not None:
        return "avif", encode_avif(frames, fps, avif)
    if len(frames) == 1:
        return "webp", _encode_still(frames[0])
    return "mp4", encode_video(frames, fps, crf)


def decode_view(members: dict[str, bytes], meta: dict, view: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes one stored view, whichever way it is stored.

    Raises:
        ValueError: It is missing, unreadable or of another size than `meta` says; names the sample and the member.
    """
    key, shape = members["__key__"], (meta["frames"], meta["height"], meta["width"])
    names = [f"view_{view:02d}.{suffix}" for suffix in ("mp4", "webp", "avif")]
    name = next((n for n in names if n in members), None)
    if name is None:
        raise ValueError(f"sample {key!r} has none of {', '.join(names)}")
    data = checked_member(members, meta, name)
    try:
        if name.endswith("mp4"):
            frames = decode_video(data)
        elif name.endswith("avif"):
            frames = decode_avif(data)
        else:
            frames = np.asarray(open_picture(io.BytesIO(data)).convert("RGB"))[None]
    except Exception as error:  # PyAV and Pillow raise many types; one clear line for all of them
        raise ValueError(f"sample {key!r}: {name} cannot be decoded: {error}") from error
    if frames.shape != (*shape, 3):
        raise ValueError(f"sample {key!r}: {name} is {frames.shape[:3]}, meta.json says {shape}")
    return frames


def encode_depth(stacked: UInt16[np.ndarray, "nh w"]) -> bytes:
    """Encodes frames of depth below each other as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(stacked).save(buffer, "PNG")
    return buffer.getvalue()


def decode_depth(members: dict[str, bytes], meta: dict, view: int) -> UInt16[np.ndarray, "nh w"]:
    """Decodes the depth of one view: its frames below each other, in the unit `depth_scale` of `meta`.

    Raises:
        ValueError: It is missing, unreadable or of another size than `meta` says; names the sample and the member.
    """
    name, shape = f"depth_{view:02d}.png", (len(meta["depth_frames"]) * meta["height"], meta["width"])
    data = checked_member(members, meta, name)
    try:
        stacked = np.asarray(open_picture(io.BytesIO(data)), np.uint16)
    except Exception as error:
        raise ValueError(f"sample {members['__key__']!r}: {name} cannot be decoded: {error}") from error
    if stacked.shape != shape:
        raise ValueError(
            f"sample {members['__key__']!r}: {name} is {stacked.shape}, meta.json says {shape}, that is "
            f"{len(meta['depth_frames'])} frames of {meta['height']} x {meta['width']}"
        )
    return stacked


def encode_video(frames: np.ndarray, fps: float, crf: int = 12) -> bytes:
    """uint8 `t h w 3` -> mp4 bytes (H.264, 4:4:4 so that small frames keep their colours)."""
    buffer = io.BytesIO()
    # one thread and no wider instructions than SSE: with either, x264 gives other bytes now and then
    options = {"crf": str(crf), "preset": "slow", "x264-params": "asm=SSE2,SSSE3,SSE4.2"}
    write_h264(buffer, frames, round(fps), "yuv444p", options, threads=1)
    return buffer.getvalue()


def decode_video(data: bytes) -> np.ndarray:
    """mp4 bytes -> uint8 `t h w 3`. One decoding thread: workers are processes already."""
    with open_alone(io.BytesIO(data)) as container:
        container.streams.video[0].thread_type = "NONE"
        rgb = RGBFrames(unnamed=BT601)  # older shards do not name what `encode_video` uses
        return np.stack([rgb.convert(frame) for frame in container.decode(video=0)])


def _encode_still(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()
