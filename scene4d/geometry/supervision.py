"""Losses that compare predicted geometry with known depth and cameras, in the normalised scene.

Depth 0 means unknown (background, frames stored without depth) and is left out everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.geometry.cameras import project, unproject
from scene4d.geometry.pose_encoding import encode_pose
from scene4d.types import Cameras


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over True entries; 0 where there are none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def pose_loss(
    poses: Sequence[Float[Tensor, "b v 9"]],
    cameras: Cameras,
    height: int,
    width: int,
    decay: float = 0.6,
    beta: float = 0.02,
) -> Float[Tensor, ""]:
    """Huber loss on pose encodings after every iteration; earlier ones count less (VGGT, sec. 3.4).

    Args:
        poses: Predictions, the last best.
        cameras: Truth `b v` in the normalised scene.
        height: Height of the images, pixels.
        width: Width of the images, pixels.
        decay: Weight of an iteration relative to the next.
        beta: Where the Huber loss turns from quadratic to linear.
    """
    truth = encode_pose(cameras, height, width)
    losses = [F.smooth_l1_loss(pose.float(), truth, beta=beta) for pose in poses]
    weights = [decay ** (len(losses) - 1 - k) for k in range(len(losses))]
    return sum((w * loss for w, loss in zip(weights, losses)), torch.zeros_like(losses[0])) / sum(weights)


def depth_loss(
    depths: Float[Tensor, "b v t h w"], truth: Float[Tensor, "b v t h w"], gradient_weight: float = 0.5
) -> Float[Tensor, ""]:
    """L1 of log depth, plus L1 of its differences between neighbouring pixels."""
    known = truth > 0
    error = depths.clamp(min=1e-6).log() - truth.clamp(min=1e-6).log()
    loss = masked_mean(error.abs(), known)
    for axis in (-1, -2):
        both = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
        loss = loss + gradient_weight * masked_mean(error.diff(dim=axis).abs(), both)
    return loss


def confidence_loss(
    confidence: Float[Tensor, "*shape"],
    depths: Float[Tensor, "*shape"],
    truth: Float[Tensor, "*shape"],
    alpha: float = 0.2,
) -> Float[Tensor, ""]:
    """Teaches the confidence alone: c * |error| - alpha * log c, the error held fixed (VGGT, eq. 2)."""
    error = (depths - truth).abs().detach() / truth.clamp(min=1e-6)
    return masked_mean(confidence * error - alpha * confidence.log(), truth > 0)


def point_loss(
    points: Float[Tensor, "b v t h w 3"], depths: Float[Tensor, "b v t h w"], cameras: Cameras
) -> Float[Tensor, ""]:
    """Distance between predicted and true points, relative to the true distance from the first camera."""
    shared = cameras[:, :, None]
    truth = unproject(depths, shared)
    distance = truth.norm(dim=-1).clamp(min=0.3)
    return masked_mean((points - truth).norm(dim=-1) / distance, depths > 0)


def true_matches(
    depths: Float[Tensor, "n v h w"], cameras: Cameras, cell: int, tolerance: float = 0.06
) -> tuple[Float[Tensor, "n v p v2 2"], Bool[Tensor, "n v p v2"]]:
    """Where the centre of each cell of each view lies in every other view.

    Args:
        depths: Planar z, 0 where unknown.
        cameras: Cameras `n v`.
        cell: Side of a cell, pixels.
        tolerance: Largest relative disagreement of the depths of a point that both views see.

    Returns:
        Pixel position there (u, v), and whether the point is known, inside and not hidden there.
    """
    n, v, height, width = depths.shape
    centre = slice(cell // 2, None, cell)
    points = rearrange(unproject(depths, cameras)[:, :, centre, centre], "n v r c xyz -> n (v r c) xyz")
    known = depths[:, :, centre, centre].flatten(2) > 0
    everywhere = points[:, None].expand(n, v, -1, 3)
    pixels, z = project(everywhere, cameras)  # n v2 (v p) ..
    x, y = pixels.floor().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
    x, y = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    seen = depths.flatten(2).gather(2, y * width + x)
    visible = inside & (seen > 0) & ((seen - z).abs() < tolerance * z.abs())
    visible &= known.flatten(1)[:, None]
    pixels, visible = (rearrange(a, "n v2 (v p) ... -> n v p v2 ...", v=v) for a in (pixels, visible))
    different = ~torch.eye(v, dtype=torch.bool, device=depths.device)[:, None, :]
    return pixels, visible & different


def match_loss(
    logits: Float[Tensor, "*cells p2"],
    pixels: Float[Tensor, "*cells 2"],
    visible: Bool[Tensor, "*cells"],
    columns: int,
    cell: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """InfoNCE over the cells of the other view, the truth shared bilinearly between its four nearest cells.

    With shared truth the expected position is right to a fraction of a cell.

    Args:
        logits: Similarity of each cell with all cells of another view.
        pixels: True position in that view, pixels, see `true_matches`.
        visible: Which entries count.
        columns: Cells in a row.
        cell: Side of a cell, pixels.

    Returns:
        Loss, and the share of cells whose best match lies within one cell of the truth.
    """
    logits = logits.float()[visible]
    if len(logits) == 0:
        return logits.sum(), logits.sum().detach()
    position = pixels[visible] / cell - 0.5  # cell centres are whole numbers
    limit = torch.tensor([columns, logits.shape[-1] // columns], device=logits.device) - 1
    corner = position.floor()
    share = position - corner
    log_probability = logits.log_softmax(-1)
    loss = logits.new_zeros(len(logits))
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        place = torch.minimum((corner + corner.new_tensor([right, below])).clamp(min=0), limit).long()
        weight = (share[:, 0] if right else 1 - share[:, 0]) * (share[:, 1] if below else 1 - share[:, 1])
        loss = loss - weight * log_probability.gather(1, (place[:, 1] * columns + place[:, 0])[:, None])[:, 0]
    best = logits.argmax(-1)
    found = torch.stack([best % columns, best // columns], -1)
    return loss.mean(), ((found - position).abs().amax(-1) <= 1).float().mean()
