"""The video stream of a file as PyAV gives it: packets, decoded frames and their times, before any conversion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

from scene4d.video_files.colours import warn_of_hdr
from scene4d.video_files.pyav import av

# one packet of these is one frame that is shown, so that their times need no decoding
FRAME_PER_PACKET = {"h264", "hevc", "mpeg4", "mjpeg", "prores", "ffv1"}
NO_PROTOCOL = {"protocol_whitelist": "none"}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders drop the alpha of WebM


class Shown(NamedTuple):
    """A frame, seconds after the first one, with its number and the width over the height of its pixels."""

    time: float
    number: int
    frame: av.VideoFrame
    aspect: Fraction | None


def decoded(path: str | Path) -> Iterator[Shown]:
    """Yields the frames of a video, one after the other: only one is in memory.

    Raises:
        ValueError: Missing or unreadable; names it.
    """
    with _opened(path) as (container, stream):
        warn_of_hdr(str(path), int(stream.codec_context.color_trc or 0))
        interval = 1 / _rate(stream)
        start = now = None
        for number, frame in enumerate(_frames(container, stream)):
            time = (-interval if now is None else now) + interval if frame.time is None else frame.time
            now = time if now is None else max(now, time)  # broken files go back in time
            start = now if start is None else start
            yield Shown(now - start, number, frame, stream.sample_aspect_ratio)


def packet_times(path: str | Path, until: float = math.inf) -> list[float] | None:
    """Times of the frames as the packets say them, from the first one; None where only decoding tells them.

    Raises:
        ValueError: Missing or unreadable; names it.
    """
    times: list[float] = []
    stop = math.inf
    with _opened(path) as (container, stream):
        if stream.codec_context.name not in FRAME_PER_PACKET:
            return None
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # an edit list leaves it out
                continue
            if packet.pts is None or packet.dts is None or not (times or packet.is_keyframe):
                return None
            times.append(float(packet.pts * packet.time_base))
            if times[-1] - times[0] > until:
                stop = min(stop, times[-1])
            if float(packet.dts * packet.time_base) > stop:
                break  # no frame is shown before it is decoded
    if not times or min(times) < times[0] or len(set(times)) < len(times):
        return None
    return [time - times[0] for time in sorted(times)]


def nominal_rate(path: str | Path) -> float:
    """Frames per second as the header says.

    Raises:
        ValueError: Missing or unreadable; names it.
    """
    with _opened(path) as (_, stream):
        return _rate(stream)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors become one line with the name of the file.

    Raises:
        ValueError: Anything is raised within.
    """
    try:
        yield
    except Exception as error:  # PyAV raises many types
        raise ValueError(f"video {str(path)!r} cannot be decoded: {error}") from error


def open_alone(file: IO[bytes]) -> av.container.InputContainer:
    """Opens a video that may come from a stranger: it reads its own bytes alone.

    Some formats of FFmpeg are scripts, which name other files or ports of the network. Without any protocol they fail.
    """
    return av.open(file, "r", metadata_errors="ignore", options=NO_PROTOCOL)


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    if not Path(path).is_file():
        raise ValueError(f"video {str(path)!r} does not exist")
    # a file, not its name: FFmpeg takes some names for patterns
    with naming(path), open(path, "rb") as file, open_alone(file) as container:
        if container.format.name == "tty" or not container.streams.video:  # FFmpeg would film a text
            raise ValueError("it holds no pictures")
        yield container, container.streams.video[0]


def _rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    name = ALPHA_DECODERS.get(stream.codec_context.name, "")
    if (
        stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) != "1"
        or name not in av.codecs_available
    ):
        yield from container.decode(stream)
        return
    decoder: av.VideoCodecContext = av.CodecContext.create(name, "r")  # type: ignore[assignment]  # a video's is one
    for packet in container.demux(stream):
        yield from decoder.decode(packet if packet.size else None)
