"""Leaving out Gaussians that contribute little, and merging those that lie in one voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.gaussians.voxels import merge_voxels
from scene4d.types import Gaussians


@dataclass(frozen=True)
class Pruning:
    """How sets of Gaussians become smaller. The defaults change nothing.

    Args:
        least_confident: Share of the pixels of every timestep, those whose depth is least certain, whose Gaussians
            are left out. In [0, 1); sky and the edges of things go first.
        opacity: Gaussians whose opacity is lower are left out. In [0, 1]; at 1/255 no picture changes.
        voxel: Side of the voxels in the unit of length of the cameras. All Gaussians in one voxel become one, see
            `merge_voxels`. About the width of a pixel at the distance of the scene, copies of a surface that several
            views have seen become one. 0 merges nothing.

    Raises:
        ValueError: A number is out of range; names it.
    """

    least_confident: float = 0.0
    opacity: float = 0.0
    voxel: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_confident < 1:
            raise ValueError(f"pruning.least_confident must lie in [0, 1), got {self.least_confident}")
        _check_opacity(self.opacity)
        if not 0 <= self.voxel < float("inf"):
            raise ValueError(f"pruning.voxel must be a length of at least 0, got {self.voxel}")

    def hide(self, gaussians: Gaussians, confidence: Float[Tensor, "b v t h w"]) -> Gaussians:
        """Sets the opacity of the least certain pixels to 0; pixels and Gaussians keep their places.

        Args:
            gaussians: One for each pixel, `b t (v h w)`.
            confidence: Of the depth of every pixel.
        """
        if self.least_confident == 0:
            return gaussians
        flat = confidence.transpose(1, 2).flatten(2)  # b t (v h w)
        dropped = int(self.least_confident * flat.shape[-1])
        bound = flat.kthvalue(dropped + 1, dim=-1, keepdim=True).values  # of equal pixels none goes
        return replace(gaussians, opacities=torch.where(flat < bound, 0, gaussians.opacities))

    def __call__(self, gaussians: Gaussians) -> Gaussians:
        """Leaves out and merges, each set by itself; sets are then filled up to the largest by invisible Gaussians.

        Args:
            gaussians: Any leading axes.

        Raises:
            ValueError: Nothing is left of a set.
        """
        if self == Pruning():
            return gaussians
        leading = gaussians.opacities.shape[:-1]
        flat = gaussians.apply(lambda x: x.flatten(0, len(leading) - 1) if leading else x[None])
        sets = [self._smaller(flat[k], k) for k in range(len(flat.opacities))]
        filled = fill_up(sets)
        return filled.apply(lambda x: x.unflatten(0, leading)) if leading else filled[0]

    def _smaller(self, gaussians: Gaussians, number: int) -> Gaussians:
        # what `hide` has hidden goes, whatever the threshold
        visible = gaussians[(gaussians.opacities >= self.opacity) & (gaussians.opacities > 0)]
        if len(visible.opacities) == 0:
            highest = gaussians.opacities.max().item() if gaussians.opacities.numel() else 0.0
            raise ValueError(
                f"pruning leaves no Gaussian of set {number}: opacity {self.opacity} against at most {highest:.3g}"
            )
        return merge_voxels(visible, self.voxel) if self.voxel > 0 else visible


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
    _check_opacity(threshold)
    return gaussians[gaussians.opacities >= threshold]


def fill_up(sets: list[Gaussians]) -> Gaussians:
    """Sets of different sizes as one, `n g`: the smaller are filled with Gaussians of opacity 0."""
    most = max(len(one.opacities) for one in sets)

    def filled(name: str) -> Tensor:
        rows = [getattr(one, name) for one in sets]
        return torch.stack([torch.cat([x, x[:1].expand(most - len(x), *x.shape[1:])]) for x in rows])

    count = torch.tensor([len(one.opacities) for one in sets], device=sets[0].opacities.device)
    real = torch.arange(most, device=count.device) < count[:, None]
    opacities = torch.where(real, filled("opacities"), 0)
    return Gaussians(
        filled("means"), filled("quats"), filled("scales"), opacities, filled("colors"), sets[0].blurred
    )


def _check_opacity(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"opacity threshold must lie in [0, 1], got {threshold}")
