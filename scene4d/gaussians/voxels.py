"""Merging the Gaussians in each voxel into one, by their first two moments."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene4d.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from scene4d.types import Gaussians

MOST_CELLS = 2**20  # along an axis: three of them fit into 63 bits
OPAQUE = 0.999  # rasterizers cut here


def merge_voxels(gaussians: Gaussians, side: float) -> Gaussians:
    """Makes one Gaussian of all that lie in a voxel; those alone in theirs stay as they are, to the bit.

    The merged one has the mean, covariance and colour of the mixture that is weighted by opacity. Its opacity keeps
    the sum of opacity times area (the product of the two largest scales) and is cut at .999.

    Args:
        gaussians: One set, without leading axes.
        side: Side of a voxel, scene units, positive.

    Returns:
        Fewer Gaussians, in the order of their voxels.
    """
    places, voxel, counts = torch.unique(
        _voxels(gaussians.means, side), return_inverse=True, return_counts=True
    )
    n, alone = len(places), (counts == 1)[voxel]

    def total(x: Float[Tensor, "g *c"]) -> Float[Tensor, "n *c"]:
        return x.new_zeros(n, *x.shape[1:]).index_add_(0, voxel, x)

    weights = gaussians.opacities.clamp(min=1e-12)
    weights = weights / total(weights)[voxel]
    means = total(weights[:, None] * gaussians.means)
    offset = gaussians.means - means[voxel]
    spread = covariances(gaussians) + offset[:, :, None] * offset[:, None, :]
    scales, quats = _ellipsoids(total(weights[:, None, None] * spread))
    area = total(gaussians.opacities * _area(gaussians.scales))
    merged = Gaussians(
        means, quats, scales, (area / _area(scales)).clamp(max=OPAQUE),
        total(weights[:, None] * gaussians.colors), gaussians.blurred,
    )  # fmt: skip
    for name in ("means", "quats", "scales", "opacities", "colors"):
        getattr(merged, name)[voxel[alone]] = getattr(gaussians, name)[alone]
    return merged


def covariances(gaussians: Gaussians) -> Float[Tensor, "*batch 3 3"]:
    """Covariance matrices of Gaussians, scene units squared."""
    axes = quaternion_to_matrix(gaussians.quats) * gaussians.scales[..., None, :]
    return axes @ axes.mT


def _voxels(means: Float[Tensor, "g 3"], side: float) -> Int[Tensor, " g"]:
    """Number of the voxel of every point; voxels beyond the last of an axis count as the last."""
    cells = ((means.double() - means.double().amin(0)) / side).floor().clamp(max=MOST_CELLS - 1).long()
    x, y, z = cells.unbind(-1)
    return (x * MOST_CELLS + y) * MOST_CELLS + z


def _ellipsoids(
    covariance: Float[Tensor, "n 3 3"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:
    """Scales and rotations of covariance matrices."""
    values, axes = torch.linalg.eigh(covariance.double())
    axes = axes * torch.linalg.det(axes)[:, None, None]  # rotations, no mirrors
    scales = values.clamp(min=1e-20).sqrt()
    return scales.to(covariance.dtype), matrix_to_quaternion(axes).to(covariance.dtype)


def _area(scales: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Product of the two largest scales."""
    return scales.sort(-1).values[:, 1:].prod(-1).clamp(min=1e-30)
