"""Leaving out Gaussians that contribute little."""

from __future__ import annotations

from scene4d.types import Gaussians


def prune_by_opacity(gaussians: Gaussians, threshold: float) -> Gaussians:
    """Keeps the Gaussians whose opacity is at least `threshold`, in order.

    At 1/255, the rasterizer's own threshold, no picture changes.

    Args:
        gaussians: Without leading axes, since sets of a batch would keep different numbers.
        threshold: In [0, 1].

    Raises:
        ValueError: Leading axes, or a threshold outside [0, 1].
    """
    if gaussians.opacities.ndim != 1:
        shape = tuple(gaussians.opacities.shape)
        raise ValueError(
            f"pruning takes one set of Gaussians, got opacities of shape {shape}; index it first"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"opacity threshold must lie in [0, 1], got {threshold}")
    return gaussians[gaussians.opacities >= threshold]
