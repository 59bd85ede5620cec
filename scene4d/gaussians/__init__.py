"""Sets of 3D Gaussians: pruning, files."""

from scene4d.gaussians.ply import read_ply, write_ply
from scene4d.gaussians.pruning import Pruning, prune_by_opacity

__all__ = ["Pruning", "prune_by_opacity", "read_ply", "write_ply"]
