"""Weights in 8 bits: whole numbers and one scale per row, so that a file has half the size of float16.

A matrix `x` is int8, and `x.row_scale` holds what each of its rows is multiplied by; vectors and small matrices keep
their type. `python -m preparation.eight_bits` writes such files, `load_weights` reads them as any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".row_scale"
SMALLEST = 4096  # numbers; below it a matrix is not worth it


def to_eight_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rounds every large matrix to 255 levels between the largest values of each row."""
    rounded: dict[str, Tensor] = {}
    for name, value in weights.items():
        rounded[name] = value.contiguous()
        if value.is_floating_point() and value.ndim > 1 and value.numel() >= SMALLEST:
            rows = value.float().flatten(1)
            scales = (rows.abs().amax(1) / 127).clamp_min(1e-12)
            levels = (rows / scales[:, None]).round().clamp(-127, 127)
            rounded[name] = levels.to(torch.int8).reshape(value.shape)
            rounded[name + SCALE] = scales
    return rounded


def from_eight_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_eight_bits` up to rounding; other weights pass unchanged.

    Raises:
        ValueError: A matrix in 8 bits has no scales, or scales have no matrix; names it.
    """
    plain = {name: value for name, value in weights.items() if not name.endswith(SCALE)}
    scaled = {name for name, value in plain.items() if value.dtype == torch.int8}
    alone = scaled ^ {name.removesuffix(SCALE) for name in weights.keys() - plain.keys()}
    if alone:
        raise ValueError(f"{min(alone)!r} needs both a matrix of 8 bits and {min(alone) + SCALE!r}")
    for name in weights.keys() - plain.keys():
        matrix = name.removesuffix(SCALE)
        scales = weights[name].reshape(-1, *[1] * (plain[matrix].ndim - 1))
        plain[matrix] = plain[matrix].float() * scales
    return plain
