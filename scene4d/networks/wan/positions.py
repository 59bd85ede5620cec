"""Positions of the tokens of a grid, which diffusers' rotary embedding knows for one video only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from scene4d.distributed.view_parallel import ViewPart

Grid = tuple[int, int, int]
Places = Int[Tensor, "v t"]  # one object, so that jsonargparse sees that classes fulfil the protocol


@dataclass(frozen=True)
class GridPositions:
    """The positions of a grid's tokens; they travel through the blocks to every self-attention as an argument.

    This is no tuple, so that wrappers which cast the inputs of a block (FSDP2) leave the tables in float32.

    Attributes:
        cosine: Cosines of the rotation angles.
        sine: Sines of the rotation angles, negated at the first channel of every pair.
        grid: (V, T, S), the numbers of views, of latent frames per view, and of tokens per latent frame.
        part: Which views of a whole grid these are, of which other ranks have the others; None if they are all.
    """

    cosine: Float[Tensor, "1 l 1 d"]
    sine: Float[Tensor, "1 l 1 d"]
    grid: Grid
    part: ViewPart | None = None


@dataclass(frozen=True)
class RowColumnPositions:
    """Positions for attention along the rows and the columns of a grid, each of which is one video to the base.

    Attributes:
        rows: Positions of a fixed-view video, grid (1, T, S).
        columns: Positions of a freeze-time video, grid (1, V, S).
        grid: (V, T, S) of the whole grid.
    """

    rows: GridPositions
    columns: GridPositions
    grid: Grid


class Positions(Protocol):
    """Places the latent frames of a grid in time."""

    def places(self, views: int, times: int) -> Places:
        """Returns the position in time of every latent frame of a grid."""
        ...


@dataclass(frozen=True)
class ViewAfterView:
    """The views follow each other as in one long video: view * max_latent_frames + time (paper, sec. 3.1).

    Args:
        max_latent_frames: The distance t_max between two neighbouring views. It is the base's own maximum (Wan: 21
            latent frames = 81 frames), so that positions stay put when the duration grows between stages.
    """

    max_latent_frames: int = 21

    def places(self, views: int, times: int) -> Places:
        """Returns the position in time of every latent frame of a grid.

        Raises:
            ValueError: There are more latent frames per view than `max_latent_frames`.
        """
        if views > 1 and times > self.max_latent_frames:
            raise ValueError(
                f"{times} latent frames exceed max_latent_frames = {self.max_latent_frames}: positions would collide, "
                "the end of each view with the start of the next one; use fewer frames, or raise it in the positions "
                "of the architecture"
            )
        return self.max_latent_frames * torch.arange(views)[:, None] + torch.arange(times)


@dataclass(frozen=True)
class Diagonal:
    """Neighbours in view and neighbours in time are one position apart: view + time (paper, appendix B).

    Frames on a diagonal of the grid have the same position. The paper found the results less stable with one
    reference video.
    """

    def places(self, views: int, times: int) -> Places:
        """Returns the position in time of every latent frame of a grid."""
        return torch.arange(views)[:, None] + torch.arange(times)


class GridRotaryEmbedding(nn.Module):
    """Wan's rotary embedding of the tokens of a grid.

    The numbers are those of diffusers' table. They are computed when they are needed, in float64, so that positions
    have no limit, and handed out in float32.

    Args:
        head_dim: Channels of an attention head.
        patch_size: Patch of the base model, (time, height, width).
        positions: Gives every latent frame of a grid its position in time.
        theta: Base of the frequencies.
    """

    def __init__(
        self,
        head_dim: int,
        patch_size: tuple[int, int, int],
        positions: Positions = ViewAfterView(),  # noqa: B008 - frozen
        theta: float = 10000.0,
    ) -> None:
        super().__init__()
        space = 2 * (head_dim // 6)
        self.dims = (head_dim - 2 * space, space, space)
        self.patch_size, self.positions, self.theta = tuple(patch_size), positions, theta

    def forward(self, latents: Float[Tensor, "b v n z y x"], part: ViewPart | None = None) -> GridPositions:
        """Returns the positions of all tokens of a grid; only its shape and device are looked at.

        Args:
            latents: The grid, or some of its views.
            part: Which views of the grid these are; None if they are all.

        Raises:
            ValueError: The grid is too large for `positions`.
        """
        views, times = self.frames(latents)
        with latents.device:  # a copy from the CPU would wait until the GPU has done all that is queued
            places = self.positions.places(views if part is None else views * part.ranks, times)
        if part is None:
            return self.table(latents, places)
        return replace(self.table(latents, part.of(places[None])[0]), part=part)

    def frames(self, latents: Float[Tensor, "b v n z y x"]) -> tuple[int, int]:
        """Returns the numbers of views and of tokens along time."""
        return latents.shape[1], latents.shape[2] // self.patch_size[0]

    def table(self, latents: Float[Tensor, "b v n z y x"], places: Int[Tensor, "v t"]) -> GridPositions:
        """Returns the positions of a grid of `places` in time, with the height and width of `latents`."""
        rows, columns = (size // patch for size, patch in zip(latents.shape[4:], self.patch_size[1:]))
        sizes, parts = (places.numel(), rows, columns), []
        device = latents.device
        axes = (places.flatten(), torch.arange(rows, device=device), torch.arange(columns, device=device))
        for axis, place in enumerate(axes):
            shape = [1, 1, 1, -1]
            shape[axis] = sizes[axis]
            angles = self._angles(self.dims[axis], place.to(device))
            parts.append(angles.view(shape).expand(*sizes, -1))
        full = rearrange(torch.cat(parts, -1), "n y x d -> 1 (n y x) 1 d")
        cosine, sine = full.cos().float(), full.sin().float()
        sine[..., 0::2].neg_()
        return GridPositions(cosine, sine, (*places.shape, rows * columns))

    def _angles(self, dim: int, places: Int[Tensor, " n"]) -> Float[Tensor, "n {dim}"]:
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=places.device) / dim
        return torch.outer(places.double(), 1.0 / self.theta**exponents).repeat_interleave(2, dim=1)


class RowColumnRotaryEmbedding(GridRotaryEmbedding):
    """Wan's rotary embedding of the rows and of the columns of a grid, each counted from 0 as the base counts."""

    def forward(  # type: ignore[override]
        self, latents: Float[Tensor, "b v n z y x"], part: ViewPart | None = None
    ) -> RowColumnPositions:
        """Returns the positions of one row and of one column; only shape and device of the grid are looked at."""
        assert part is None, "columns are whole: these architectures do not split views"
        views, times = self.frames(latents)
        numbers = (torch.arange(n, device=latents.device)[None] for n in (times, views))
        row, column = (self.table(latents, places) for places in numbers)
        return RowColumnPositions(row, column, (views, times, row.grid[2]))


def rotate(x: Float[Tensor, "b l h d"], positions: GridPositions) -> Float[Tensor, "b l h d"]:
    """Rotates neighbouring pairs of channels, as diffusers' Wan does it; the result has the type of `x`.

    In this form a compiler reads every number once, where it would read each four times to interleave two halves.
    """
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x * positions.cosine + swapped * positions.sine).type_as(x)
