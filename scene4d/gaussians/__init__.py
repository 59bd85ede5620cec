"""Sets of 3D Gaussians: covariances, pruning, files."""

from scene4d.gaussians.covariance import covariances, quats_to_rotations
from scene4d.gaussians.ply import read_ply, write_ply
from scene4d.gaussians.pruning import prune_by_opacity

__all__ = ["covariances", "prune_by_opacity", "quats_to_rotations", "read_ply", "write_ply"]
