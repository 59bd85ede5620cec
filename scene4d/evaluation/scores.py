"""Scores of generated frames: per frame, then the mean of a video, of a scene, of a data source.

Only generated frames count: the reference mask is left out everywhere. A score without meaning (the
silhouette of a scene without background) is NaN and is left out of means.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

Perceptual = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]

GRID_SCORES = ("psnr", "psnr_foreground", "ssim", "perceptual", "iou", "sharpness")
VIEW_SCORES = ("psnr", "ssim", "perceptual")
WHITE = 0.95  # a pixel is background where all channels exceed this: video codecs move white by about 0.02
BEST_MSE = 1e-6  # PSNR is capped at 60 dB, so that a few identical frames do not rule a mean


def score_grid(
    prediction: Float[Tensor, "v t c h w"],
    truth: Float[Tensor, "v t c h w"],
    reference: Bool[Tensor, "v t"],
    perceptual: Perceptual,
    white_background: bool = True,
) -> dict[str, float]:
    """Scores one generated grid.

    The foreground is where the truth or one of the two copies (column 0 of the row, row 0 of the column, if
    they are references) is not white: where an object is, or where copying would put it.

    Args:
        prediction: In [0, 1]; values outside are clamped.
        truth: In [0, 1].
        reference: True at given frames, which are not scored.
        perceptual: Distance of images `n 3 h w` in [0, 1].
        white_background: Whether silhouettes mean anything; False makes `iou` NaN.

    Returns:
        `GRID_SCORES`: psnr and psnr_foreground in dB, ssim, perceptual (lower is better), iou of the
        silhouettes, sharpness (gradient energy over the truth's, of the whole scene).

    Raises:
        ValueError: Every frame is a reference, or shapes differ.
    """
    _check(prediction, truth, reference)
    prediction = prediction.clamp(0, 1).to(truth.dtype)
    error = (prediction - truth).square().mean(2)
    mask = foreground(truth) | _copied_foreground(truth, reference)
    silhouettes = (
        silhouette_iou(prediction, truth) if white_background else torch.full_like(error[..., 0, 0], math.nan)
    )
    generated = ~reference
    frames = {
        "psnr": psnr(error.mean((-1, -2))),
        "psnr_foreground": psnr(_masked_mean(error, mask)),
        "iou": silhouettes,
    }
    scores = {name: scene_mean(value, generated) for name, value in frames.items()}
    scores |= _image_scores(prediction, truth, generated, perceptual)
    energy, expected = gradient_energy(prediction)[generated].sum(), gradient_energy(truth)[generated].sum()
    scores["sharpness"] = float(energy / expected) if expected > 0 else math.nan
    return {name: scores[name] for name in GRID_SCORES}


def score_views(
    prediction: Float[Tensor, "v t c h w"],
    truth: Float[Tensor, "v t c h w"],
    reference: Bool[Tensor, "v t"],
    perceptual: Perceptual,
) -> dict[str, float]:
    """Scores the rendered novel views of one scene: `VIEW_SCORES`, see `score_grid`."""
    _check(prediction, truth, reference)
    prediction = prediction.clamp(0, 1).to(truth.dtype)
    mse = (prediction - truth).square().mean((-1, -2, -3))
    scores = {"psnr": scene_mean(psnr(mse), ~reference)}
    return scores | _image_scores(prediction, truth, ~reference, perceptual)


def psnr(mse: Float[Tensor, "*frames"]) -> Float[Tensor, "*frames"]:
    """-10 log10(mse) of images in [0, 1], at most 60 dB."""
    return -10 * torch.log10(mse.clamp_min(BEST_MSE))


def foreground(images: Float[Tensor, "*frames c h w"]) -> Bool[Tensor, "*frames h w"]:
    """True where any channel is below `WHITE`."""
    return (images < WHITE).any(-3)


def silhouette_iou(
    prediction: Float[Tensor, "*frames c h w"], truth: Float[Tensor, "*frames c h w"]
) -> Float[Tensor, "*frames"]:
    """Intersection over union of the two foregrounds; NaN where both are empty."""
    ours, theirs = foreground(prediction), foreground(truth)
    return (ours & theirs).sum((-1, -2)) / (ours | theirs).sum((-1, -2)).to(truth.dtype)


def gradient_energy(images: Float[Tensor, "*frames c h w"]) -> Float[Tensor, "*frames"]:
    """Mean squared difference of neighbouring pixels, horizontal plus vertical."""
    return images.diff(dim=-1).square().mean((-1, -2, -3)) + images.diff(dim=-2).square().mean((-1, -2, -3))


def scene_mean(values: Float[Tensor, "v t"], generated: Bool[Tensor, "v t"]) -> float:
    """Mean over the generated frames of each fixed-view video, then over videos; NaN frames are left out."""
    videos = torch.where(generated, values, math.nan).nanmean(1)
    return float(videos.nanmean())


def rotation_error(predicted: Float[Tensor, "v 4 4"], truth: Float[Tensor, "v 4 4"]) -> float:
    """Mean angle in degrees between predicted and true rotations, both relative to their first camera.

    Views 1 and later count; the identity's error is `rotation_error(torch.eye(4).expand(v, 4, 4), truth)`.
    """
    ours, theirs = (c2w[:1, :3, :3].mT.double() @ c2w[1:, :3, :3].double() for c2w in (predicted, truth))
    # |A - B|_F = 2 sqrt(2) sin(angle / 2): unlike the trace's arc cosine exact at small angles
    chord = torch.linalg.matrix_norm(ours - theirs) / (2 * math.sqrt(2))
    return float(torch.rad2deg(2 * torch.asin(chord.clamp(max=1))).mean())


def depth_abs_rel(predicted: Float[Tensor, "*n h w"], truth: Float[Tensor, "*n h w"]) -> float:
    """Mean of |s d - d*| / d* where d* is known (> 0), s the ratio of the two medians of the whole scene."""
    known = truth > 0
    ours, theirs = predicted[known].double(), truth[known].double()
    scale = theirs.median() / ours.median().clamp_min(1e-12) if len(theirs) else math.nan
    return float(((scale * ours - theirs).abs() / theirs).mean())


def _image_scores(
    prediction: Float[Tensor, "v t c h w"],
    truth: Float[Tensor, "v t c h w"],
    generated: Bool[Tensor, "v t"],
    perceptual: Perceptual,
) -> dict[str, float]:
    """SSIM (Gaussian window, sigma 1.5) and perceptual distance of the generated frames."""
    ours, theirs = prediction[generated].float(), truth[generated].float()
    # not in bfloat16: under the trainer's autocast identical images had an SSIM of 0.94
    with torch.no_grad(), torch.autocast(truth.device.type, enabled=False):
        ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
        assert isinstance(ssim, Tensor)
        values = {"ssim": ssim, "perceptual": perceptual(ours, theirs)}
    scores = {}
    for name, value in values.items():
        frames = torch.full(generated.shape, math.nan, dtype=truth.dtype, device=truth.device)
        frames[generated] = value.flatten().to(frames)
        scores[name] = scene_mean(frames, generated)
    return scores


def _copied_foreground(
    truth: Float[Tensor, "v t c h w"], reference: Bool[Tensor, "v t"]
) -> Bool[Tensor, "v t h w"]:
    mask = foreground(truth)
    column = mask[:, :1] & reference[:, :1, None, None]
    row = mask[:1] & reference[:1, :, None, None]
    return column | row


def _masked_mean(
    values: Float[Tensor, "*frames h w"], mask: Bool[Tensor, "*frames h w"]
) -> Float[Tensor, "*frames"]:
    """Mean over pixels of the mask, NaN where it is empty."""
    return (values * mask).sum((-1, -2)) / mask.sum((-1, -2))


def _check(prediction: Tensor, truth: Tensor, reference: Tensor) -> None:
    if prediction.shape != truth.shape or reference.shape != truth.shape[:2]:
        shapes = [tuple(x.shape) for x in (prediction, truth, reference)]
        raise ValueError(f"prediction, truth and reference do not fit: {shapes[0]}, {shapes[1]}, {shapes[2]}")
    if reference.all():
        raise ValueError("every frame is a reference; there is nothing to score")
