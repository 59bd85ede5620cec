"""Makes cameras and depth agree with the explicit matches between views, by bundle adjustment.

A small network predicts depth to some percent and cameras hardly at all; its matches are right to a fraction
of a cell and say much more. Nothing is learned here and no gradient passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.bundle_adjustment import Correspondences, Priors, adjust, chain_cameras
from scene4d.networks.vggt.view_matcher import CELL, cell_positions, find_matches
from scene4d.types import Cameras, Prediction

CAMERA_TIMESTEPS = 4  # cameras stand still: so many timesteps say enough
LEAST_TRUST = 0.05
FIXED = 1e-4  # deviation of the logarithm of a focal length that is known
DEPTH_EDGE = 0.15  # of log depth; corrections do not pass larger steps


@torch.no_grad()
def match_timesteps(prediction: Prediction) -> list[Correspondences]:
    """Matches of the cells of every view in all other views, for each timestep.

    Raises:
        ValueError: The network has no view matcher.
    """
    if prediction.match_features is None:
        raise ValueError("refinement needs matches: build the network with match_views: true")
    depths = prediction.depths.float()
    with torch.autocast(depths.device.type, enabled=False):
        return [_correspond(prediction.match_features[:, t], depths[:, :, t]) for t in range(depths.shape[2])]


@torch.no_grad()
def cameras_from_matches(
    prediction: Prediction,
    timesteps: Sequence[Correspondences],
    intrinsics: Float[Tensor, "b v 3 3"] | None = None,
) -> Cameras:
    """Cameras that explain the matches; they start from the predicted ones and from Procrustes on predicted depth.

    The better of the two results is taken for each scene. A single view keeps its predicted camera.

    Args:
        prediction: The network's.
        timesteps: The result of `match_timesteps`.
        intrinsics: Known ones, which are kept. None means that all views share one focal length, which is found.
    """
    depths, predicted, known = prediction.depths.float(), prediction.cameras, intrinsics is not None
    shared = predicted.intrinsics.mean(1, keepdim=True).expand_as(predicted.intrinsics)
    start = Cameras(predicted.c2w, shared if intrinsics is None else intrinsics)
    if depths.shape[1] == 1:
        return start if known else predicted
    with torch.autocast(depths.device.type, enabled=False):
        return _find_cameras(timesteps, depths, start, Priors(log_focal=FIXED) if known else Priors())


@torch.no_grad()
def depths_from_matches(
    prediction: Prediction, timesteps: Sequence[Correspondences], cameras: Cameras
) -> Float[Tensor, "b v t h w"]:
    """Depths that explain the matches as seen from `cameras`, which are in the unit of the predicted depth."""
    depths, refined = prediction.depths.float(), []
    with torch.autocast(depths.device.type, enabled=False):
        for t, matches in enumerate(timesteps):
            _, found, _, known = adjust(cameras, matches, steps=4, fixed_cameras=True)
            refined.append(correct_depth(depths[:, :, t], matches.depths, found, known))
    return torch.stack(refined, 2)


def correct_depth(
    depths: Float[Tensor, "b v h w"],
    guessed: Float[Tensor, "b v p"],
    found: Float[Tensor, "b v p"],
    known: Float[Tensor, "b v p"],
    prior: float = 10.0,
) -> Float[Tensor, "b v h w"]:
    """Spreads the corrections of cells over pixels of similar depth nearby.

    Args:
        depths: Predicted depths.
        guessed: Predicted depths at the cells.
        found: Depths there that the matches ask for.
        known: Inverse variance of the logarithm of `found`.
        prior: Inverse variance of "no correction".
    """
    b, v, height, width = depths.shape
    rows = height // CELL
    log_guess = guessed.clamp(min=1e-6).log()
    cells = torch.stack([found.clamp(min=1e-6).log() - log_guess, known, log_guess], 2)
    cells = rearrange(cells, "b v c (r k) -> (b v) c r k", r=rows)
    near = F.unfold(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3).unflatten(1, (3, 9))
    near = rearrange(near, "n c k (r l) -> n c k r l", r=rows)
    near = near.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)  # n 3 9 h w
    correction, trust, level = near.unbind(1)
    log_depth = depths.clamp(min=1e-6).log().flatten(0, 1)
    similar = (-((log_depth[:, None] - level) / DEPTH_EDGE).square()).exp()
    weight = trust * similar * _closeness(height, width, depths.device)
    change = (weight * correction).sum(1) / (weight.sum(1) + prior)
    return (log_depth + change).exp().unflatten(0, (b, v))


def _closeness(height: int, width: int, device: torch.device) -> Float[Tensor, "9 h w"]:
    """Gaussian of the distance of every pixel from the samples of its 3 x 3 cells, a cell wide."""
    inside = (torch.arange(CELL, device=device) - CELL // 2).float() / CELL
    offset = torch.arange(-1, 2, device=device).float()
    along = (-(inside - offset[:, None]).square()).exp()  # 3 CELL
    rows, columns = along.repeat(1, height // CELL), along.repeat(1, width // CELL)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)


def _correspond(features: Float[Tensor, "b v p f"], depths: Float[Tensor, "b v h w"]) -> Correspondences:
    """Matches of the cells of every view in all other views."""
    v, height, width = depths.shape[1:]
    positions = cell_positions(height // CELL, width // CELL, depths.device)
    found, confidence, agrees = find_matches(
        features[:, :, None].float(), features[:, None].float(), positions
    )
    weights = torch.where(agrees & (confidence > LEAST_TRUST), confidence, 0)
    weights = weights * ~torch.eye(v, dtype=torch.bool, device=depths.device)[:, :, None]
    pixels = (positions * CELL + 0.5).expand(*depths.shape[:2], -1, -1)  # the pixel right below the centre
    centre = slice(CELL // 2, None, CELL)
    return Correspondences(pixels, depths[:, :, centre, centre].flatten(2), found * CELL, weights)


def _find_cameras(
    timesteps: Sequence[Correspondences],
    depths: Float[Tensor, "b v t h w"],
    predicted: Cameras,
    priors: Priors,
) -> Cameras:
    """From the predicted cameras and from Procrustes on predicted depth; the better of the two a scene."""
    count = min(CAMERA_TIMESTEPS, len(timesteps))
    chosen = torch.linspace(0, len(timesteps) - 1, count).round().long().tolist()
    matches = Correspondences(
        *(
            torch.cat(
                [getattr(timesteps[t], name) for t in chosen], -2 if name in ("pixels", "found") else -1
            )
            for name in ("pixels", "depths", "found", "weights")
        )
    )
    others = torch.cat([_look_up(depths[:, :, t], timesteps[t].found) for t in chosen], -1)
    chained = Cameras(chain_cameras(matches, others, predicted.intrinsics), predicted.intrinsics)
    first, second = (adjust(guess, matches, priors=priors) for guess in (chained, predicted))
    better = (first[2] <= second[2])[:, None, None, None]
    return Cameras(
        torch.where(better, first[0].c2w, second[0].c2w),
        torch.where(better, first[0].intrinsics, second[0].intrinsics),
    )


def _look_up(
    depths: Float[Tensor, "b w h w2"], pixels: Float[Tensor, "b v w p 2"]
) -> Float[Tensor, "b v w p"]:
    """Depth of view w at pixel positions."""
    b, v, w = pixels.shape[:3]
    size = torch.tensor([depths.shape[-1], depths.shape[-2]], device=depths.device)
    grid = rearrange(pixels / size * 2 - 1, "b v w p c -> (b w) v p c")
    sampled = F.grid_sample(
        depths.flatten(0, 1)[:, None], grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return rearrange(sampled[:, 0], "(b w) v p -> b v w p", b=b)
