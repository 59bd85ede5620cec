"""Losses that hold a network near what it was, and what is rendered near what was predicted; absent by default."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.supervision import depth_loss, masked_mean
from scene4d.losses.outcome import Outcome, ReconstructionLoss

POSE_BETA = 0.02  # as in `pose_loss`
TEACHER = "a teacher: use it in lightning_modules.GaussianReconstruction"


class DepthDistillation(ReconstructionLoss):
    """Compares depth with that of the network at its initial weights, in the way of `DepthLoss`; needs no true depth.

    Temporal attention starts as the identity: where it is all that trains of the backbone, the teacher is the frozen
    backbone. A second copy of the network is held and run without gradients for it.
    """

    name, needs_teacher = "depth_distillation", True

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares predicted depth with the teacher's.

        Raises:
            ValueError: There is no teacher.
        """
        return depth_loss(
            outcome.prediction.depths.float(), self.need(outcome.teacher, TEACHER).depths.float()
        )


class CameraDistillation(ReconstructionLoss):
    """Compares the last pose encodings with those of the network at its initial weights by the Huber loss of VGGT.

    The teacher is that of `DepthDistillation`, and one copy serves both.
    """

    name, needs_teacher = "camera_distillation", True

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares predicted cameras with the teacher's.

        Raises:
            ValueError: There is no teacher.
        """
        taught = self.need(outcome.teacher, TEACHER).poses[-1].float()
        return F.smooth_l1_loss(outcome.prediction.poses[-1].float(), taught, beta=POSE_BETA)


class DepthConsistencyLoss(ReconstructionLoss):
    """Compares the depth that the Gaussians show in a rendered input view with the depth that placed them there.

    It is the mean of |rendered - predicted| / predicted over the more certain half of the pixels, where Gaussians are
    seen at all. Gradients reach the Gaussians, not the depth they are compared with. Gaussians of other views that
    float in front of a surface, or let it shine through, cost the most.
    """

    name, needs_depth = "depth_consistency", True

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares rendered with predicted depth.

        Raises:
            ValueError: No input view was rendered.
        """
        what = "a rendered input view: use it in lightning_modules.GaussianReconstruction with rendered_inputs >= 1"
        rendered = self.need(outcome.rendered_depths, what)
        predicted = self.need(outcome.placed_depths, what).detach()
        confidence = self.need(outcome.placed_confidence, what)
        certain = confidence >= confidence.flatten(3).median(-1).values[..., None, None]
        error = (rendered - predicted).abs() / predicted.clamp(min=1e-6)
        return masked_mean(error, certain & (rendered > 0))
