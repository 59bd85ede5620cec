"""Where the tokens of a view x time grid stand, as rotations of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class GridPositions:
    """What every self-attention needs to know about the grid; it travels through the blocks as an argument.

    This is no tuple, so that wrappers which cast the inputs of a block (FSDP2) leave the tables in float32.

    Attributes:
        cosine: Cosines of the rotation angles.
        sine: Sines of the rotation angles.
        grid: (V, T, S), the numbers of views, of latent frames per view, and of tokens per latent frame.
    """

    cosine: Float[Tensor, "1 l 1 d"]
    sine: Float[Tensor, "1 l 1 d"]
    grid: Grid


class GridRotaryEmbedding(nn.Module):
    """Wan's rotary embedding at t' = v * t_max + t (paper, sec. 3.1 "Positional embedding").

    The numbers are those of diffusers' table. They are computed when they are needed, in float64, so that positions
    have no limit, and handed out in float32.

    Args:
        head_dim: Channels of an attention head.
        patch_size: Patch of the base model, (time, height, width).
        max_latent_frames: t_max, the distance between the positions of two neighbouring views.
        theta: Base of the frequencies.
    """

    def __init__(
        self,
        head_dim: int,
        patch_size: tuple[int, int, int],
        max_latent_frames: int = 21,
        theta: float = 10000.0,
    ) -> None:
        super().__init__()
        space = 2 * (head_dim // 6)
        self.dims = (head_dim - 2 * space, space, space)
        self.patch_size, self.max_latent_frames, self.theta = tuple(patch_size), max_latent_frames, theta

    def forward(self, latents: Float[Tensor, "b v n z y x"]) -> GridPositions:
        """Returns the positions of all tokens of a grid; only its shape and device are looked at."""
        _, views, frames, _, height, width = latents.shape
        times, rows, columns = (
            size // patch for size, patch in zip((frames, height, width), self.patch_size)
        )
        places = torch.arange(views * times, device=latents.device)
        if views > 1:
            places = places // times * self.max_latent_frames + places % times
        axes = (
            places,
            torch.arange(rows, device=latents.device),
            torch.arange(columns, device=latents.device),
        )
        sizes, parts = (views * times, rows, columns), []
        for axis, (dim, positions) in enumerate(zip(self.dims, axes)):
            shape = [1, 1, 1, -1]
            shape[axis] = sizes[axis]
            parts.append(self._angles(dim, positions).view(shape).expand(*sizes, -1))
        full = rearrange(torch.cat(parts, -1), "n y x d -> 1 (n y x) 1 d")
        return GridPositions(full.cos().float(), full.sin().float(), (views, times, rows * columns))

    def _angles(self, dim: int, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        return torch.outer(positions.double(), 1.0 / self.theta**exponents).repeat_interleave(2, dim=1)


def rotate(x: Float[Tensor, "b l h d"], positions: GridPositions) -> Float[Tensor, "b l h d"]:
    """Rotates neighbouring pairs of channels, as diffusers' Wan does it; the result has the type of `x`."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = positions.cosine[..., 0::2], positions.sine[..., 1::2]
    return torch.stack((a * cosine - b * sine, a * sine + b * cosine), -1).flatten(-2).type_as(x)
