"""Decoded frames become 8-bit RGB by the matrix and the range that the video names.

A video that names no matrix is taken as players take it (mpv): BT.709 from 1280 pixels of width or more than 576 of
height on, BT.601 below. Unnamed range is limited, except of `yuvj`, gray and RGB formats. Transparent frames are laid
over white. Brightness stays as it is stored: HDR (PQ and HLG) is not tone-mapped, which a warning says.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import UInt8

from scene4d.video_files.pyav import av

# numbers of ITU-T H.273, table 4
RGB, BT709, UNNAMED, RESERVED, FCC, BT470BG, BT601, SMPTE240M, BT2020 = 0, 1, 2, 3, 4, 5, 6, 7, 9
UNNAMED_MATRICES = (RGB, UNNAMED, RESERVED)  # RGB says nothing about a frame that is stored as YUV
KNOWN_MATRICES = (BT709, FCC, BT470BG, BT601, SMPTE240M, BT2020, 10)  # 10 is BT.2020 too, of linear light
HDR = {16: "PQ", 18: "HLG"}  # table 3
HD_WIDTH, SD_HEIGHT = 1280, 576
# PyAV up to 16 hands the matrix on to swscale only where it differs from the target's; so does 17 by its own tags
ANOTHER = 5
FULL_RANGE, LIMITED_RANGE = 2, 1  # AVColorRange, which PyAV calls JPEG and MPEG
# bilinear, full chroma in and out, accurate rounding: flags of libswscale; PyAV names them from 18 on
EXACT = 0x2 | 0x2000 | 0x4000 | 0x40000
FULL_OF_LIMITED = ((np.arange(256) - 16) * 255 / 219).round().clip(0, 255).astype(np.uint8)


class RGBFrames:
    """Converts the frames of one video to RGB; the same numbers with every version of PyAV that we allow.

    Args:
        unnamed: Matrix of frames that name none, as H.273 numbers it; None decides by their size, see above.
    """

    def __init__(self, unnamed: int | None = None) -> None:
        self.unnamed = unnamed
        self.reformatter = (
            av.video.reformatter.VideoReformatter()
        )  # one for all frames: each call of frame.to_ndarray would set up its own

    def convert(self, frame: av.VideoFrame, width: int = 0, height: int = 0) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the pixels of a frame as they are stored, scaled to a width and a height where they are given.

        Raises:
            ValueError: The matrix of the frame is one that cannot be converted.
        """
        transparent = any(part.is_alpha for part in frame.format.components)
        options: dict[str, int] = {}
        if not (frame.format.is_rgb or frame.format.has_palette):
            matrix = self._matrix(frame)
            options = {"src_colorspace": matrix, "dst_colorspace": ANOTHER}
            options |= {"src_color_range": _range(frame), "dst_color_range": FULL_RANGE}
        if max(part.bits for part in frame.format.components) > 8:
            options["interpolation"] = EXACT  # the short way is off by up to 4 levels
        pixels = self.reformatter.reformat(
            frame, width or frame.width, height or frame.height, "rgba" if transparent else "rgb24", **options
        ).to_ndarray()
        if _is_gray(frame) and int(frame.color_range) == LIMITED_RANGE:  # swscale takes all gray for full
            pixels[..., :3] = FULL_OF_LIMITED[pixels[..., :3]]
        return _on_white(pixels) if transparent else pixels

    def _matrix(self, frame: av.VideoFrame) -> int:
        named = int(frame.colorspace)
        if named in UNNAMED_MATRICES:
            large = frame.width >= HD_WIDTH or frame.height > SD_HEIGHT
            named = self.unnamed or (BT709 if large else BT601)
        if named not in KNOWN_MATRICES:
            raise ValueError(f"its colours have matrix {named} of H.273, expected one of {KNOWN_MATRICES}")
        return {BT470BG: BT601, 10: BT2020}.get(named, named)


def warn_of_hdr(path: str, transfer: int) -> None:
    """Warns that the brightness of HDR is not converted."""
    if transfer in HDR:
        warnings.warn(
            f"video {path!r} is HDR ({HDR[transfer]}) and is not tone-mapped: it looks grey; convert it to SDR first",
            stacklevel=2,
        )


def _range(frame: av.VideoFrame) -> int:
    full = _is_gray(frame) or frame.format.name.startswith("yuvj") or int(frame.color_range) == FULL_RANGE
    return FULL_RANGE if full else LIMITED_RANGE


def _is_gray(frame: av.VideoFrame) -> bool:
    return frame.format.name.startswith(("gray", "ya8", "ya16"))


def _on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(colours)
    weighted = colours.astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return ((weighted + 127) // 255).astype(np.uint8)
