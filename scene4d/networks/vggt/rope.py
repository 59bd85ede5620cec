"""Rotary position embeddings of the aggregator: 2D over patches, optionally 1D over time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cosine and sine, each `l d`


def _angles(positions: Int[Tensor, " l"], size: int, base: float) -> Float[Tensor, "l {size}"]:
    """Angles of one axis, repeated for the two halves that are rotated against each other."""
    steps = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions[:, None].float() * base**-steps
    return torch.cat([angles, angles], -1)


def patch_rotation(
    height: int, width: int, special: int, head_dim: int, base: float, device: torch.device
) -> Rotation:
    """2D RoPE of one frame's tokens: the head is split in a y half and an x half.

    Args:
        height: Patches along y.
        width: Patches along x.
        special: Camera and register tokens in front; they sit at position 0, patches at (y + 1, x + 1).
        head_dim: Channels of one head, a multiple of 4.
        base: Base of the frequencies (VGGT: 100).
        device: Where to build it.
    """
    ys = torch.arange(height, device=device).repeat_interleave(width) + 1
    xs = torch.arange(width, device=device).repeat(height) + 1
    zeros = torch.zeros(special, dtype=ys.dtype, device=device)
    halves = [_angles(torch.cat([zeros, axis]), head_dim // 2, base) for axis in (ys, xs)]
    angles = torch.stack(halves, -2)  # l 2 d/2
    return angles.cos(), angles.sin()


def time_rotation(frames: int, head_dim: int, base: float, device: torch.device) -> Rotation:
    """1D RoPE over timesteps 0 .. frames - 1; the whole head is one axis."""
    angles = _angles(torch.arange(frames, device=device), head_dim, base)[:, None]
    return angles.cos(), angles.sin()


def rotate(tokens: Float[Tensor, "b heads l d"], rotation: Rotation) -> Float[Tensor, "b heads l d"]:
    """Applies a rotation ("rotate-half") to queries or keys."""
    cosine, sine = rotation  # l axes d/axes
    split = tokens.unflatten(-1, cosine.shape[-2:])
    first, second = split.chunk(2, -1)
    return (split * cosine + torch.cat([-second, first], -1) * sine).flatten(-2)
