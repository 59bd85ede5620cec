"""Makes grids of 2D videos: smooth random homography paths stand for synchronized cameras (paper, sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from random import Random

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


class HomographyViews:
    """Makes views of a 2D video along a smooth random path of homographies, the same for all frames of a view.

    View 0 looks straight at the video; view k is seen through a homography whose parameters run along a
    curve from zero at view 0 to a random end within the bounds. One zoom for all views keeps every pixel of
    every view inside the video: no black borders. Each view is resampled once.

    Args:
        views: Number of views on the path, from which the selection takes its views.
        rotation: Largest in-plane rotation at the end of the path, degrees.
        scale: Largest change of scale, as a factor minus 1 (0.15 = 15% closer or farther).
        shear: Largest shear.
        perspective: Largest change of the homogeneous weight from the image centre to its short border;
            it makes a view look turned sideways.
        translation: Largest shift, as a share of half the short image side.
        curvature: Size of the smooth detour of each parameter, as a share of its bound.
        zoom: Range of an extra random zoom into the video; 1 shows as much of it as possible.

    Raises:
        ValueError: A bound is out of range.
    """

    def __init__(
        self,
        views: int = 8,
        rotation: float = 12.0,
        scale: float = 0.15,
        shear: float = 0.1,
        perspective: float = 0.2,
        translation: float = 0.2,
        curvature: float = 0.3,
        zoom: Sequence[float] = (1.0, 1.2),
    ) -> None:
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}")
        bounds = {"scale": scale, "shear": shear, "perspective": perspective, "translation": translation}
        for name, value in bounds.items():
            if not 0 <= value <= 0.5:
                raise ValueError(f"{name} must lie in [0, 0.5], got {value}")
        if not 0 <= rotation <= 45:
            raise ValueError(f"rotation must lie in [0, 45] degrees, got {rotation}")
        if len(zoom) != 2 or not 1 <= zoom[0] <= zoom[1]:
            raise ValueError(f"zoom must be a range [low, high] with 1 <= low <= high, got {list(zoom)}")
        self.views, self.curvature, self.zoom = views, curvature, tuple(zoom)
        self.bounds = torch.tensor(
            [
                math.radians(rotation),
                math.log1p(scale),
                shear,
                perspective,
                perspective,
                translation,
                translation,
            ]
        )

    def path(self, rng: Random, output: tuple[int, int], stored: tuple[int, int]) -> Float[Tensor, "v 3 3"]:
        """Draws the homographies of all views, from output to stored coordinates.

        Both use centred coordinates whose unit is half the short image side.

        Args:
            rng: Source of randomness.
            output: Height and width of the views.
            stored: Height and width of the video.
        """
        homographies = self._matrices(self._curves(rng))
        zoom = _widest_zoom(homographies, _half_size(output), _half_size(stored)) / rng.uniform(*self.zoom)
        return homographies @ torch.diag(torch.tensor([zoom, zoom, 1.0]))

    def warp(
        self, video: Float[Tensor, "t c h w"], homographies: Float[Tensor, "v 3 3"], output: tuple[int, int]
    ) -> Float[Tensor, "v t c height width"]:
        """Renders views of a video, each by one bilinear resampling.

        A video over twice as large as its views is box-averaged first, against aliasing. Its frames and channels
        go through one sampling grid per view, whose weights are then computed once.

        Args:
            video: Video in [0, 1].
            homographies: Homographies of the wanted views, as drawn by `path`.
            output: Height and width of the views.
        """
        factor = max(1, min(video.shape[2] // output[0], video.shape[3] // output[1]))
        half = _half_size((video.shape[2], video.shape[3]))
        video = F.avg_pool2d(video, factor) if factor > 1 else video
        points = torch.einsum("vij,hwj->vhwi", homographies, _pixel_centres(output))
        grid = points[..., :2] / points[..., 2:] / torch.tensor(half)
        planes = rearrange(video, "t c h w -> 1 (t c) h w").expand(len(homographies), -1, -1, -1)
        warped = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
        return rearrange(warped, "v (t c) h w -> v t c h w", t=len(video)).clamp_(0, 1)

    def _curves(self, rng: Random) -> Float[Tensor, "v 7"]:
        """Draws parameters over the path: a straight line to a random end plus half a wave, zero at view 0."""
        count = len(self.bounds)
        end = torch.tensor([rng.uniform(-1, 1) for _ in range(count)])
        detour = torch.tensor([rng.uniform(-1, 1) for _ in range(count)]) * self.curvature
        place = torch.linspace(0, 1, self.views)[:, None]
        return self.bounds * (end * place + detour * torch.sin(math.pi * place)) / (1 + self.curvature)

    @staticmethod
    def _matrices(parameters: Float[Tensor, "v 7"]) -> Float[Tensor, "v 3 3"]:
        angle, log_scale, shear, bend_x, bend_y, shift_x, shift_y = parameters.unbind(-1)
        cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        size = log_scale.exp()
        rows = [size * cos, size * (shear * cos - sin), shift_x]
        rows += [size * sin, size * (shear * sin + cos), shift_y, bend_x, bend_y, one + zero]
        return rearrange(torch.stack(rows, -1), "v (i j) -> v i j", i=3)


def _half_size(size: tuple[int, int]) -> tuple[float, float]:
    """Returns half width and half height in units of half the short side: (1, 1) for a square image."""
    height, width = size
    return width / min(size), height / min(size)


@cache
def _pixel_centres(size: tuple[int, int]) -> Float[Tensor, "h w 3"]:
    height, width = size
    x = (torch.arange(width) + 0.5 - width / 2) * 2 / min(size)
    y = (torch.arange(height) + 0.5 - height / 2) * 2 / min(size)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], -1)


def _widest_zoom(
    homographies: Float[Tensor, "v 3 3"], output: tuple[float, float], stored: tuple[float, float]
) -> float:
    """Finds the largest scale of the output rectangle whose images under all homographies lie in the stored one.

    A homography maps a rectangle on the safe side of its horizon to a convex quadrilateral, so the four
    corners decide.
    """
    scales, scaled = _scaled_corners(output)
    mapped = torch.einsum("vij,skj->svki", homographies, scaled)
    inside = (mapped[..., 2] > 0.1) & ((mapped[..., :2] / mapped[..., 2:]).abs() <= torch.tensor(stored)).all(
        -1
    )
    fits = inside.all(-1).all(-1)
    return float(scales[fits.float().argmax()])


@cache
def _scaled_corners(output: tuple[float, float]) -> tuple[Float[Tensor, "s"], Float[Tensor, "s 4 3"]]:
    x, y = output
    corners = torch.tensor([[x, y], [x, -y], [-x, y], [-x, -y]])
    scales = torch.linspace(2, 0.02, 397)
    return scales, torch.cat([scales[:, None, None] * corners, torch.ones(397, 4, 1)], -1)
