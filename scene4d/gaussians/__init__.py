"""Sets of 3D Gaussians: covariances, pruning, files."""

from scene4d.gaussians.covariance import covariances
from scene4d.gaussians.ply import read_ply, write_ply
from scene4d.gaussians.pruning import prune_by_opacity

__all__ = ["covariances", "prune_by_opacity", "read_ply", "write_ply"]
