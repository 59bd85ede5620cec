"""Pictures and videos of grids: contact sheets with labels, mp4 and png files.

Images are float `c h w` in [0, 1] until they become uint8 `h w 3` at the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scene4d.atomic import replacing
from scene4d.video_files import write_h264

SEPARATOR = 0.5  # grey
REFERENCE_COLOUR = (0.95, 0.45, 0.1)


def grid_sheet(images: Float[Tensor, "v t c h w"], gap: int = 1) -> Float[Tensor, "c H W"]:
    """Contact sheet: one row per view, one column per timestep, thin grey lines between them.

    The sheet is `v h + (v - 1) gap` high and `t w + (t - 1) gap` wide.
    """
    padded = torch.nn.functional.pad(images.detach().float().clamp(0, 1), (0, gap, 0, gap), value=SEPARATOR)
    sheet = rearrange(padded, "v t c h w -> c (v h) (t w)")
    return sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]


def comparison_sheet(
    grids: Mapping[str, Float[Tensor, "v t c h w"]], gap: int = 1, columns: int | None = None
) -> Float[Tensor, "c H W"]:
    """Several grids of the same scene, each a contact sheet under its name.

    Args:
        grids: For example `{"reference": ..., "generated": ..., "truth": ..., "copy": ...}`, in this order.
        gap: Pixels between images.
        columns: Sheets side by side; None = two when there are four or more, otherwise one.

    Raises:
        ValueError: There is no grid.
    """
    if not grids:
        raise ValueError("a comparison needs at least one grid")
    columns = columns or (2 if len(grids) > 3 else 1)
    sheets = [_labelled(grid_sheet(images, gap), name) for name, images in grids.items()]
    height, width = (max(s.shape[k] for s in sheets) for k in (1, 2))
    rows = -(-len(sheets) // columns)
    margin = 6
    canvas = torch.ones(3, rows * (height + margin) - margin, columns * (width + margin) - margin)
    for index, sheet in enumerate(sheets):
        top, left = (index // columns) * (height + margin), (index % columns) * (width + margin)
        canvas[:, top : top + sheet.shape[1], left : left + sheet.shape[2]] = sheet
    return canvas


def frame_references(
    images: Float[Tensor, "v t c h w"], reference: Bool[Tensor, "v t"], thickness: int = 2
) -> Float[Tensor, "v t c h w"]:
    """Draws an orange frame inside every reference image."""
    framed = images.clone()
    colour = torch.tensor(REFERENCE_COLOUR, dtype=images.dtype, device=images.device)[:, None, None]
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool, device=images.device)
    inside[thickness:-thickness, thickness:-thickness] = True
    edge = reference.to(images.device)[:, :, None, None, None] & ~inside
    return torch.where(edge, colour, framed)


def grid_video(
    images: Float[Tensor, "v t c h w"], reference: Bool[Tensor, "v t"] | None = None, gap: int = 2
) -> UInt8[np.ndarray, "t H W 3"]:
    """Frames of a contact sheet that plays: the views side by side, in two rows from six views on.

    Args:
        images: In [0, 1].
        reference: Given frames, drawn inside an orange frame; None = no frames.
        gap: Grey pixels between views.
    """
    shown = images.detach().float().cpu().clamp(0, 1)
    if reference is not None:
        shown = frame_references(shown, reference.cpu())
    rows = 2 if shown.shape[0] > 5 else 1
    missing = -shown.shape[0] % rows
    shown = torch.cat([shown, torch.ones(missing, *shown.shape[1:])])
    frames = [grid_sheet(rearrange(x, "(r k) c h w -> r k c h w", r=rows), gap) for x in shown.unbind(1)]
    return to_uint8(torch.stack(frames))


def still_sheet(
    images: Float[Tensor, "v t c h w"], reference: Bool[Tensor, "v t"], most: int = 9, gap: int = 2
) -> Float[Tensor, "c H W"]:
    """Contact sheet of a grid with at most `most` timesteps, evenly spaced from the first to the last.

    Args:
        images: In [0, 1].
        reference: Given frames, drawn inside an orange frame.
        most: Largest number of timesteps.
        gap: Grey pixels between images.
    """
    frames = images.shape[1]
    chosen = torch.linspace(0, frames - 1, min(most, frames)).round().long().to(images.device)
    shown = frame_references(images[:, chosen].float(), reference.to(images.device)[:, chosen])
    return grid_sheet(shown, gap)


def fitting_enlargement(height: int, width: int, longest: int = 1280, most: int = 3) -> int:
    """The largest of 1 to `most` times at which a picture is at most `longest` pixels high and wide."""
    return max(1, min(most, longest // max(height, width)))


def to_uint8(images: Float[Tensor, "*batch c h w"]) -> UInt8[np.ndarray, "*batch h w c"]:
    """[0, 1] to 0..255, channels last."""
    scaled = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def write_png(path: str | Path, image: Float[Tensor, "c h w"], enlarge: int = 1) -> None:
    """Writes one image, whole or not at all, every pixel repeated `enlarge` times."""
    with replacing(path) as temporary:
        Image.fromarray(_enlarge(to_uint8(image)[None], enlarge)[0]).save(temporary, "PNG")


def write_video(path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float, enlarge: int = 1) -> None:
    """Writes an mp4 that plays everywhere (H.264, 4:2:0, index first), whole or not at all.

    Args:
        path: The mp4 file; its folder is made.
        frames: uint8 RGB; odd heights and widths are padded with the last row and column.
        fps: Frames per second; rounded to a thousandth.
        enlarge: Every pixel is repeated this many times: small videos stay sharp in players.

    Raises:
        ValueError: No frame, or not uint8 `t h w 3`.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"{path}: a video needs uint8 frames t h w 3, got {frames.dtype} {frames.shape}")
    frames = _enlarge(frames, enlarge)
    frames = np.pad(frames, [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)], mode="edge")
    with replacing(path) as temporary:
        write_h264(temporary, frames, _rate(fps), "yuv420p", {"crf": "14"}, faststart=True)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1000)


def _enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    return np.ascontiguousarray(frames.repeat(factor, 1).repeat(factor, 2))


def _labelled(sheet: Float[Tensor, "c h w"], text: str) -> Float[Tensor, "c H W"]:
    """Black text on a white strip above the sheet."""
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(text)
    height, width = 14, max(sheet.shape[2], int(right - left) + 4)
    strip = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(strip).text(
        (2, 1 - top + (height - 2 - (bottom - top)) // 2), text, fill="black", font=font
    )
    label = torch.from_numpy(np.array(strip)).float().movedim(-1, 0) / 255
    padded = torch.nn.functional.pad(sheet.cpu(), (0, width - sheet.shape[2]), value=1.0)
    return torch.cat([label, padded], 1)
