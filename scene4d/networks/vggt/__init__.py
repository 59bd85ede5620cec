"""VGGT's architecture for view x time grids."""

from scene4d.networks.vggt.gaussian_activation import gaussians_from_maps
from scene4d.networks.vggt.model import ReconstructionNetwork

__all__ = ["ReconstructionNetwork", "gaussians_from_maps"]
