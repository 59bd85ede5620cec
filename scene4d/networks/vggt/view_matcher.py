"""Explicit matching between views, for small networks trained from scratch in minutes.

VGGT learns to match views inside its attention, from millions of scenes. On a laptop this does not start:
camera tokens stay at the identity for thousands of steps. A small convolutional matcher learns
correspondences in minutes; it hands every patch and camera token where the patch lies in the first and in
the previous view, and how far along the path the view comes. Views must therefore be ordered along the
camera path. Off in the VGGT-1B configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scene4d.networks.vggt.camera_head import POSE_SIZE, start_at_identity

CELL = 4  # pixels along the side of a feature cell
MAX_VIEWS = 16  # later views share the last place
CHANNELS = 4  # x, y displacement, confidence, cycle agreement


@dataclass
class MatchedTokens:
    """Additions to the tokens, and the features that the matching loss supervises.

    Attributes:
        patches: Added to the patch tokens.
        camera: Added to the camera token.
        poses: First guess of the pose encoding, from the displacements alone.
        features: One vector per cell; the inner product of two cells is the logit of their match.
    """

    patches: Float[Tensor, "n v l d"]
    camera: Float[Tensor, "n v 1 d"]
    poses: Float[Tensor, "n v 9"]
    features: Float[Tensor, "n v p f"]


class MatchingEncoder(nn.Module):
    """Images to unit feature vectors on a grid of `CELL`-pixel cells."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )  # fmt: skip
        self.residuals = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, padding=k, dilation=k),
                nn.ReLU(), nn.Conv2d(width, width, 1),
            )
            for k in (1, 2, 3)
        )  # fmt: skip
        self.out = nn.Conv2d(width, features, 1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n p f"]:
        mean = images.mean((1, 2, 3), keepdim=True)
        x = self.stem((images - mean) / (images.std((1, 2, 3), keepdim=True) + 0.05))
        for residual in self.residuals:
            x = x + residual(x)
        return F.normalize(self.out(F.relu(x)).float().flatten(2).transpose(1, 2), dim=-1)


class ViewMatcher(nn.Module):
    """Matches all pairs of views and embeds the displacements.

    Args:
        dim: Channels of the tokens.
        patch_size: Side of a patch, a multiple of the matcher's 4-pixel cells.
        width: Channels of the encoder.
        features: Length of a feature vector.
    """

    def __init__(self, dim: int, patch_size: int, width: int = 96, features: int = 64) -> None:
        super().__init__()
        if patch_size % CELL:
            raise ValueError(f"patch size {patch_size} is no multiple of the matcher's cell of {CELL} pixels")
        self.ratio = patch_size // CELL
        self.encoder = MatchingEncoder(width, features)
        self.log_temperature = nn.Parameter(torch.tensor([2.7]))  # FSDP2 splits no scalar
        self.to_patches = nn.Linear(2 * CHANNELS * self.ratio**2, dim)
        self.to_cells = nn.Sequential(
            nn.Linear(2 * CHANNELS + 2, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU()
        )
        self.to_camera = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.order = nn.Embedding(MAX_VIEWS, dim)
        self.to_poses = nn.Linear(dim, POSE_SIZE)
        start_at_identity(self.to_poses)

    def forward(self, frames: Float[Tensor, "n v 3 h w"], rows: int, columns: int) -> MatchedTokens:
        """Matches the views of each row of `frames`, ordered along the camera path."""
        n, v = frames.shape[:2]
        height, width = rows * self.ratio, columns * self.ratio
        features = self.encoder(frames.flatten(0, 1)).unflatten(0, (n, v))
        features = features * (self.log_temperature / 2).exp()
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            cells, positions = _describe(features.detach(), height, width)
        grouped = rearrange(
            cells, "n v (y i x j) c -> n v (y x) (i j c)", y=rows, x=columns, i=self.ratio, j=self.ratio
        )
        with torch.autocast(frames.device.type, enabled=False):  # cameras come from here
            weight = cells[..., 2:3] * cells[..., 3:4]
            located = self.to_cells(torch.cat([cells, positions.expand(n, v, -1, -1)], -1))
            pooled = (located * weight).sum(2) / weight.sum(2).clamp(min=1e-3)
            place = self.order(torch.arange(v, device=frames.device).clamp(max=MAX_VIEWS - 1))
            camera = self.to_camera(pooled + place)
            return MatchedTokens(
                self.to_patches(grouped), camera[:, :, None], self.to_poses(camera), features
            )


def _describe(
    features: Float[Tensor, "n v p f"], height: int, width: int
) -> tuple[Float[Tensor, "n v p 8"], Float[Tensor, "p 2"]]:
    """Displacement, confidence and cycle agreement of every cell to the first and the previous view."""
    positions = cell_positions(height, width, features.device)
    views = torch.arange(features.shape[1], device=features.device)
    described = []
    for other in (torch.zeros_like(views), (views - 1).clamp(min=0)):
        found, confidence, agrees = find_matches(features, features[:, other], positions)
        displacement = (found - positions) / 4  # about unit size
        described.append(torch.cat([displacement, confidence[..., None], agrees[..., None].float()], -1))
    size = torch.tensor([width, height], device=features.device)
    return torch.cat(described, -1), positions / size - 0.5


def cell_positions(height: int, width: int, device: torch.device) -> Float[Tensor, "p 2"]:
    """Centres (x, y) of all cells of a view, in cells."""
    ys = torch.arange(height, device=device).repeat_interleave(width)
    xs = torch.arange(width, device=device).repeat(height)
    return torch.stack([xs, ys], -1).float() + 0.5


def find_matches(
    features: Float[Tensor, "*#batch p f"],
    others: Float[Tensor, "*#batch p f"],
    positions: Float[Tensor, "p 2"],
) -> tuple[Float[Tensor, "*pairs p 2"], Float[Tensor, "*pairs p"], Bool[Tensor, "*pairs p"]]:
    """Best cell among `others`, refined below the cell by averaging over its 3 x 3 neighbours.

    Returns:
        Position in cells, confidence (probability of the best cell), and whether the match of the match lies
        within one cell.
    """
    logits = features @ others.transpose(-1, -2)
    near = (positions[:, None] - positions).abs().amax(-1) <= 1.01
    probability = logits.softmax(-1)
    confidence, best = probability.max(-1)
    local = probability * near[best]
    found = (local @ positions) / local.sum(-1, keepdim=True)
    returned = logits.argmax(-2).gather(-1, best)
    agrees = near[returned, torch.arange(len(positions), device=features.device)]
    return found, confidence, agrees
