"""H.264 files that name their colours, so that every player and decoder shows the same."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from scene4d.video_files.pyav import av

# swscale converts RGB with the matrix of BT.601; a player would take a large video that does not say so for BT.709
COLOURS = {
    "colorspace": "smpte170m",
    "color_range": "tv",
    "color_primaries": "bt709",
    "color_trc": "iec61966-2-1",
}


def write_h264(
    file: str | Path | io.BytesIO,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    rate: int | Fraction,
    pixel_format: str,
    encoder: dict[str, str],
    threads: int | None = None,
    faststart: bool = False,
) -> None:
    """Writes an mp4.

    Args:
        file: Path or buffer.
        frames: uint8 RGB, at least one, all of one size.
        rate: Frames per second.
        pixel_format: yuv444p or yuv420p; the latter plays everywhere.
        encoder: Options of x264.
        threads: Threads of the encoder; None leaves them to it.
        faststart: Whether the index comes first, so that a browser need not load all.
    """
    target = file if isinstance(file, io.BytesIO) else str(file)
    with av.open(
        target, "w", format="mp4", options={"movflags": "faststart"} if faststart else {}
    ) as container:
        stream = container.add_stream("libx264", rate=rate, options={**COLOURS, **encoder})
        if threads is not None:
            stream.codec_context.thread_count = threads
        stream.pix_fmt = pixel_format
        for k, pixels in enumerate(frames):
            if k == 0:
                stream.height, stream.width, _ = pixels.shape
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))
            )
        container.mux(stream.encode())
