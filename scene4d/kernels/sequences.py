"""A grid's tokens as the sequences of the three dense attentions, and back."""

from __future__ import annotations

from torch import Tensor

Grid = tuple[int, int, int]
Part = tuple[Tensor, Tensor]  # output `n h l d` of an attention over sequences, and its log-sum-exp `n h l`
Gradients = tuple[Tensor, Tensor, Tensor]  # of q, k and v


def split_views(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b V) h (T S) ...`, a view of contiguous x."""
    views, times, tokens = grid
    return x.reshape(x.shape[0] * views, times * tokens, *x.shape[2:]).transpose(1, 2)


def split_frames(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b V T) h S ...`, a view of contiguous x."""
    views, times, tokens = grid
    return x.reshape(x.shape[0] * views * times, tokens, *x.shape[2:]).transpose(1, 2)


def split_times(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b T) h (V S) ...`, the one that copies."""
    views, times, tokens = grid
    swapped = x.reshape(x.shape[0], *grid, *x.shape[2:]).transpose(1, 2)
    return swapped.reshape(x.shape[0] * times, views * tokens, *x.shape[2:]).transpose(1, 2)


def join_views(x: Tensor, grid: Grid) -> Tensor:
    """Undoes `split_views` and `split_frames`: -> `b V T S h ...`."""
    return x.transpose(1, 2).reshape(-1, *grid, x.shape[1], *x.shape[3:])


def join_times(x: Tensor, grid: Grid) -> Tensor:
    """Undoes `split_times`: -> `b V T S h ...`."""
    views, times, tokens = grid
    return x.transpose(1, 2).reshape(-1, times, views, tokens, x.shape[1], *x.shape[3:]).transpose(1, 2)
