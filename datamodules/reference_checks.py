"""Whether two reference videos can belong to one scene, as far as their pixels tell."""

from __future__ import annotations

import logging
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# docs/log.md has the measurements behind these
WARN_BELOW = 24.0  # dB; one frame in two encodings has more, even at 64 pixels and H.264's crf 35
REFUSE_BELOW = 12.0  # dB; black and inverted pictures have less, the same place at another moment has more
COMPARED = 64  # pixels; noise and codecs matter less there
STILL = 0.06  # largest change of a pixel that stands still
SWAPPED = 0.25  # more still pixels in the freeze-time video than in the fixed-view video
MOVING = 0.1  # share of still pixels below which a camera hardly stands still

SharedFrame = Literal["refuse", "warn", "ignore"]

log = logging.getLogger(__name__)


def check_references(
    fixed_view: Float[Tensor, "t 3 h w"],
    freeze_time: Float[Tensor, "v 3 h w"],
    names: tuple[str, str],
    shared_frame: SharedFrame,
) -> None:
    """Warns of videos that contradict each other, or refuses them.

    Args:
        fixed_view: Frames of the fixed-view video.
        freeze_time: Frames of the freeze-time video; its first one should equal the other's first one.
        names: The two files.
        shared_frame: What to do, see `ReferenceVideos`.

    Raises:
        ValueError: The first frames have nothing in common, and they are to be refused; names both files.
    """
    if shared_frame == "ignore":
        return
    psnr = shared_frame_psnr(fixed_view[0], freeze_time[0])
    if psnr < WARN_BELOW:
        line = (
            f"the first frames of {names[0]!r} and {names[1]!r} should show the same, but differ: PSNR {psnr:.1f} dB, "
            f"expected at least {WARN_BELOW:g}"
        )
        if psnr < REFUSE_BELOW and shared_frame == "refuse":
            raise ValueError(
                f"{line}; below {REFUSE_BELOW:g} they are refused, shared_frame: warn takes them"
            )
        log.warning("%s", line)
    if hint := movement_hint(fixed_view, freeze_time, names):
        log.warning("%s", hint)


def movement_hint(
    fixed_view: Float[Tensor, "t 3 h w"], freeze_time: Float[Tensor, "v 3 h w"], names: tuple[str, str]
) -> str:
    """One line if the camera of the fixed-view video seems to move; empty if not, or if pixels do not tell.

    Pixels of a plain background stand still in both videos, so that nothing is noticed in front of one.
    """
    fixed, freeze = still_share(fixed_view), still_share(freeze_time)
    shares = f"{fixed:.0%} of its pixels stand still, {freeze:.0%} in {names[1]!r}"
    if freeze > fixed + SWAPPED:
        return f"are the two videos swapped? {names[0]!r} should be the fixed view, but {shares}"
    if fixed < MOVING:
        return f"does the camera of {names[0]!r} move? It should stand still, but {shares}"
    return ""


def shared_frame_psnr(first: Float[Tensor, "3 h w"], second: Float[Tensor, "3 h w"]) -> float:
    """PSNR of two frames in dB, after both were scaled down to at most 64 pixels; at most 80."""
    error = _small(first[None]) - _small(second[None])
    return -10 * error.square().mean().clamp(min=1e-8).log10().item()


def still_share(video: Float[Tensor, "n 3 h w"]) -> float:
    """Share of the pixels that change by less than 0.06 over all frames, in every channel."""
    small = _small(video)
    change = (small.amax(0) - small.amin(0)).amax(0)
    return (change < STILL).float().mean().item()


def _small(video: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
    if max(video.shape[-2:]) <= COMPARED:
        return video
    return F.interpolate(video, (COMPARED, COMPARED), mode="area")
