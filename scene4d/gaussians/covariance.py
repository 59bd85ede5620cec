"""Quaternions and scales to covariance matrices."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.rotations import quaternion_to_matrix


def covariances(
    quats: Float[Tensor, "*batch 4"], scales: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """Covariance matrices R diag(s^2) R' (Kerbl et al. 2023, Eq. 6), scene units squared."""
    factor = quaternion_to_matrix(quats) * scales[..., None, :]
    return factor @ factor.mT
