"""VGGT's architecture for view x time grids."""

from scene4d.networks.vggt.gaussian_activation import gaussians_from_maps
from scene4d.networks.vggt.model import ADDED_TO_VGGT, VGGT_UNUSED, Prediction, ReconstructionNetwork

__all__ = ["ADDED_TO_VGGT", "VGGT_UNUSED", "Prediction", "ReconstructionNetwork", "gaussians_from_maps"]
