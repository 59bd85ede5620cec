"""Videos as AVIF sequences (AV1), which Pillow reads and writes: smaller than our H.264, and without PyAV."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from scene4d.pictures import open_picture

SPEED = 6  # of libaom, 0 to 10: 4 took three times as long for files that were 2% smaller


def encode_avif(frames: UInt8[np.ndarray, "t h w 3"], fps: float, quality: int) -> bytes:
    """Encodes a video, its colours at full resolution; one thread, so that equal frames give equal bytes.

    Args:
        frames: At least one.
        fps: Frames per second, which players use; `meta.json` says it for us.
        quality: 0 to 100; 100 is not lossless.

    Raises:
        ValueError: Pillow cannot write AVIF here.
    """
    check_avif()
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer, "AVIF", save_all=True, append_images=others, duration=round(1000 / fps), quality=quality,
        subsampling="4:4:4", speed=SPEED, max_threads=1,
    )  # fmt: skip
    return buffer.getvalue()


def decode_avif(data: bytes) -> UInt8[np.ndarray, "t h w 3"]:
    """Decodes a video.

    Raises:
        ValueError: Pillow cannot read AVIF here.
        OSError: The data is no AVIF.
    """
    check_avif()
    with open_picture(io.BytesIO(data)) as video:
        frames = []
        for number in range(getattr(video, "n_frames", 1)):
            video.seek(number)
            frames.append(np.asarray(video.convert("RGB")))
    return np.stack(frames)


def check_avif() -> None:
    """Refuses a Pillow without AVIF.

    Raises:
        ValueError: It has none; says which has.
    """
    if not features.check("avif"):
        raise ValueError("AVIF needs Pillow 11.3 or newer, from a wheel")
