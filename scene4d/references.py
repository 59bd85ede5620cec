"""The four ways of giving reference videos to a grid."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

References = Literal["both", "fixed_view", "freeze_time", "none"]
WAYS: tuple[References, ...] = get_args(References)


def reference_mask(references: References, views: int, frames: int) -> Bool[Tensor, "v t"]:
    """True where a frame is given: in row 0 (the fixed-view video), in column 0 (the freeze-time video), or both.

    Raises:
        ValueError: `references` is none of the four ways; names them.
    """
    if references not in WAYS:
        raise ValueError(f"references is {references!r}, expected one of {', '.join(WAYS)}")
    mask = torch.zeros(views, frames, dtype=torch.bool)
    mask[0] |= references in ("both", "fixed_view")
    mask[:, 0] |= references in ("both", "freeze_time")
    return mask


def way_of(mask: Bool[Tensor, "v t"]) -> References:
    """Which of the two videos a mask gives."""
    row, column = bool(mask[0].all()), bool(mask[:, 0].all())
    if row and column:
        return "both"
    return "fixed_view" if row else "freeze_time" if column else "none"


def are_both_given(mask: Bool[Tensor, "b v t"]) -> Bool[Tensor, " b"]:
    """Whether a grid has its fixed-view and its freeze-time video."""
    return mask[:, 0].all(1) & mask[:, :, 0].all(1)
