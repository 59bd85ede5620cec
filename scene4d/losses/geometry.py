"""Losses of predicted cameras, depths, points and matches; unknown depth is left out everywhere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.supervision import (
    confidence_loss,
    depth_loss,
    match_loss,
    point_loss,
    pose_loss,
    true_matches,
)
from scene4d.losses.outcome import Outcome, ReconstructionLoss
from scene4d.types import Cameras


class CameraLoss(ReconstructionLoss):
    """Compares pose encodings after every iteration of the camera head by a Huber loss, see `pose_loss`."""

    name = "camera"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares predicted with true cameras."""
        height, width = outcome.depths.shape[-2:]
        return pose_loss(outcome.prediction.poses, outcome.cameras, height, width)


class DepthLoss(ReconstructionLoss):
    """Compares log depth, and its differences between neighbouring pixels, by an L1 loss; see `depth_loss`.

    Args:
        weight: Multiplies the loss in the sum that is trained on.
        gradient_weight: Weight of the differences within the loss.
    """

    name = "depth"

    def __init__(self, weight: float = 1.0, gradient_weight: float = 0.5) -> None:
        super().__init__(weight)
        self.gradient_weight = gradient_weight

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares predicted with true depth."""
        return depth_loss(outcome.prediction.depths, outcome.depths, self.gradient_weight)


class ConfidenceLoss(ReconstructionLoss):
    """Teaches the confidence of the depth and leaves the depth itself alone, see `confidence_loss`."""

    name = "confidence"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares the confidence with the error of the depth."""
        prediction = outcome.prediction
        return confidence_loss(prediction.depth_confidence, prediction.depths, outcome.depths)


class PointLoss(ReconstructionLoss):
    """Measures the relative distance between predicted and true points, see `point_loss`; needs a point head."""

    name = "points"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares predicted with true points.

        Raises:
            ValueError: The network has no point head.
        """
        points = self.need(outcome.prediction.points, "a point head: build the network with point_head: true")
        return point_loss(points, outcome.depths, outcome.cameras)


class MatchingLoss(ReconstructionLoss):
    """Matches every view with one other view at the first timestep, see `match_loss`; needs a view matcher.

    The other view lies a number of views further on, which is drawn at random and the same for all views. All pairs
    at once would cost more time and memory than the rest of a small network. The share of right matches is logged
    as `match_accuracy`.
    """

    name = "matching"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares the features of all cells of the paired views.

        Raises:
            ValueError: The network has no view matcher.
        """
        features = self.need(
            outcome.prediction.match_features, "a view matcher: build the network with match_views: true"
        )
        loss, accuracy = random_match_loss(
            features[:, 0], outcome.depths[:, :, 0], outcome.cameras, outcome.generator
        )
        outcome.figures["match_accuracy"] = accuracy
        return loss


def random_match_loss(
    features: Float[Tensor, "n v p f"],
    depths: Float[Tensor, "n v h w"],
    cameras: Cameras,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss and share of right matches of every view with one other that the generator draws."""
    views, cells = features.shape[1:3]
    if views == 1:
        return features.sum() * 0, features.new_zeros(())
    height, width = depths.shape[-2:]
    cell = round((height * width / cells) ** 0.5)  # cells are square
    first = torch.arange(views, device=features.device)
    second = (first + int(torch.randint(1, views, (), generator=generator))) % views
    pixels, visible = true_matches(depths, cameras, cell)  # n v p v2
    pixels, visible = (x[:, first, :, second].transpose(0, 1) for x in (pixels, visible))
    logits = features @ features[:, second].transpose(-1, -2)
    return match_loss(logits, pixels, visible, width // cell, cell)
