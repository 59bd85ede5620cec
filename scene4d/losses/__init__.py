"""Losses of the reconstruction, to be listed with their weights in a config, and the perceptual distance."""

from scene4d.losses.distillation import CameraDistillation, DepthConsistencyLoss, DepthDistillation
from scene4d.losses.geometry import CameraLoss, ConfidenceLoss, DepthLoss, MatchingLoss, PointLoss
from scene4d.losses.outcome import Outcome, ReconstructionLoss, no_loss, weighted_losses
from scene4d.losses.perceptual import PerceptualLoss
from scene4d.losses.views import BackgroundLoss, ImageLoss, PerceptualImageLoss

__all__ = [
    "BackgroundLoss",
    "CameraDistillation",
    "CameraLoss",
    "ConfidenceLoss",
    "DepthConsistencyLoss",
    "DepthDistillation",
    "DepthLoss",
    "ImageLoss",
    "MatchingLoss",
    "Outcome",
    "PerceptualImageLoss",
    "PerceptualLoss",
    "PointLoss",
    "ReconstructionLoss",
    "no_loss",
    "weighted_losses",
]
