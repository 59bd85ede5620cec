"""What a model has to beat: copies of the references, their blends and blurs, and a linear map.

All take the whole grid and look at its references only: row 0 and column 0 of a diffusion grid, the input
views of a novel-view problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Grid = Float[Tensor, "b v t c h w"]
Latents = Float[Tensor, "b v n d i j"]


def copy_freeze_time(images: Grid) -> Grid:
    """Column 0, the freeze-time video, repeated over time: the right views, standing still."""
    return images[:, :, :1].expand_as(images)


def copy_fixed_view(images: Grid) -> Grid:
    """Row 0, the fixed-view video, repeated over views: the right motion, seen from the wrong side."""
    return images[:, :1].expand_as(images)


def blend(images: Grid, share: float = 0.8) -> Grid:
    """`share` of the freeze-time copy plus the rest of the fixed-view copy."""
    return share * copy_freeze_time(images) + (1 - share) * copy_fixed_view(images)


def blurred_copy(images: Grid, sigma: float = 1.5) -> Grid:
    """The freeze-time copy, blurred by `sigma` pixels: higher PSNR for no knowledge."""
    return blur(copy_freeze_time(images), sigma)


def copy_nearest(images: Grid, c2w: Float[Tensor, "b v 4 4"], reference: Bool[Tensor, "b v t"]) -> Grid:
    """Each view replaced by the nearest input view at the same time (input views stay themselves)."""
    nearest = nearest_inputs(c2w, reference[:, :, 0])[..., 0]
    return _take_views(images, nearest)


def blurred_mean(
    images: Grid, c2w: Float[Tensor, "b v 4 4"], reference: Bool[Tensor, "b v t"], sigma: float = 2.0
) -> Grid:
    """The mean of the two nearest input views, blurred by `sigma` pixels."""
    nearest = nearest_inputs(c2w, reference[:, :, 0])[..., :2]
    mean = torch.stack([_take_views(images, k) for k in nearest.unbind(-1)]).mean(0)
    return blur(mean, sigma)


def nearest_inputs(c2w: Float[Tensor, "b v 4 4"], inputs: Bool[Tensor, "b v"]):
    """Indices of the input views of every view, nearest first, `b v i` with i the least number of inputs.

    Nearness is the distance of the camera centres over the greatest one in the scene, plus the angle between
    the viewing directions over pi: it works for orbits, for sideways motion and for turning on the spot.

    Raises:
        ValueError: A scene has no input view.
    """
    count = int(inputs.sum(1).min())
    if count == 0:
        raise ValueError("a scene has no input view to copy from")
    centres, forward = c2w[..., :3, 3], c2w[..., :3, 2]
    distance = torch.cdist(centres, centres)
    distance = distance / distance.amax((1, 2), keepdim=True).clamp_min(1e-9)
    angle = torch.acos((forward @ forward.mT).clamp(-1, 1)) / math.pi
    cost = (distance + angle).masked_fill(~inputs[:, None], math.inf)
    return cost.argsort(dim=-1, stable=True)[..., :count]


def blur(images: Grid, sigma: float) -> Grid:
    """Gaussian blur of every frame, in pixels."""
    size = 2 * math.ceil(3 * sigma) + 1
    flat = gaussian_blur(rearrange(images, "b v t c h w -> (b v t) c h w"), size, sigma)
    return flat.view(images.shape)


class LinearPredictor:
    """A linear map without a network: per latent channel from the two copies and the corner frame.

    Every latent value of a generated frame is `w_a a + w_b b + w_c c + w_0`: a the freeze-time copy's latent
    at the same place, b the fixed-view copy's, c the corner frame's, standing still. Four numbers a channel,
    found by ridge regression. Each rank fits what it is given.

    Args:
        encode: Images in [0, 1] to latents, both `b v t c h w` (their t, h and w may be fewer).
        decode: The inverse.
        ridge: Added to the diagonal of the normalised normal equations.

    Attributes:
        weights: `c 4`, or None before `fit`.
    """

    def __init__(
        self, encode: Callable[[Grid], Latents], decode: Callable[[Latents], Grid], ridge: float = 1e-4
    ) -> None:
        self.encode, self.decode, self.ridge = encode, decode, ridge
        self.weights: Float[Tensor, "c 4"] | None = None

    @torch.no_grad()
    def fit(self, batches: Iterable[Grid]) -> LinearPredictor:
        """Fits the weights to batches of training grids.

        Raises:
            ValueError: There was no batch.
        """
        gram, cross, count = torch.zeros(()), torch.zeros(()), 0
        for images in batches:
            features = rearrange(
                self._features(images)[:, 1:, 1:], "b v t c h w k -> c (b v t h w) k"
            ).double()
            target = rearrange(self.encode(images)[:, 1:, 1:], "b v t c h w -> c (b v t h w) 1").double()
            gram = features.mT @ features + gram.to(features)
            cross = features.mT @ target + cross.to(features)
            count += features.shape[1]
        if count == 0:
            raise ValueError("the linear predictor needs at least one batch with a generated frame")
        regularised = gram / count + self.ridge * torch.eye(4, dtype=torch.float64, device=gram.device)
        self.weights = torch.linalg.solve(regularised, cross / count).squeeze(-1)
        return self

    @torch.no_grad()
    def predict(self, images: Grid) -> Grid:
        """Predicts a grid from row 0 and column 0 of `images`.

        Raises:
            ValueError: Called before `fit`.
        """
        if self.weights is None:
            raise ValueError("the linear predictor is not fitted; call fit(batches) first")
        features = self._features(images)
        return self.decode(torch.einsum("bvtchwk,ck->bvtchw", features, self.weights.to(features)))

    def _features(self, images: Grid) -> Float[Tensor, "b v n d i j k"]:
        still = copy_freeze_time(images)
        latents = [self.encode(still)]
        for row in (images[:, :1], still[:, :1]):  # copied to all views: encoded once
            latents.append(self.encode(row).expand_as(latents[0]))
        return torch.stack([*latents, torch.ones_like(latents[0])], -1)


def _take_views(images: Grid, index: Tensor) -> Grid:
    """Picks views by an index `b v`."""
    return torch.stack([grid[views] for grid, views in zip(images, index)])
