"""VGGT's architecture for view x time grids."""

from scene4d.networks.vggt.gaussian_activation import gaussians_from_maps
from scene4d.networks.vggt.model import Prediction, ReconstructionNetwork
from scene4d.networks.vggt.weights import load_weights, read_weights

__all__ = ["Prediction", "ReconstructionNetwork", "gaussians_from_maps", "load_weights", "read_weights"]
