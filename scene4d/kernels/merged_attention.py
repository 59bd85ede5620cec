"""View-time attention as three dense attentions, merged exactly by inclusion and exclusion.

A token (v, t, s) attends to all tokens of its view or of its time (4Real-Video-V2, Eq. 1). With

    A: inside each view      (b v sequences of t s tokens)
    B: inside each timestep  (b t sequences of v s tokens)
    C: inside each frame     (b v t sequences of s tokens), which A and B both hold

the union softmax is `lse = log(e^lse_A + e^lse_B - e^lse_C)` and
`out = out_A e^(lse_A - lse) + out_B e^(lse_B - lse) - out_C e^(lse_C - lse)`. C is part of A and of B, so
after the shift by m = max(lse_A, lse_B) the argument lies in [1, 2]: nothing cancels.
The backward runs each dense backward with the global out and lse, adds A and B and subtracts C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.kernels.dense_attention import DenseKernel, accumulation_dtype

Grid = tuple[int, int, int]


def merged_forward(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, scale: float, kernel: DenseKernel
) -> tuple[Tensor, Tensor]:
    """Attention output and its log-sum-exp.

    Args:
        q, k, v: `b l h d` with l = V T S, view-major; any strides.
        grid: (V, T, S).
        scale: Factor of the logits.
        kernel: Computes the three dense attentions.

    Returns:
        Output `b l h d` in the dtype of q, and lse `b l h` in float32 (float64 for float64); contiguous.
    """
    shape = (q.shape[0], *grid, *q.shape[2:])
    inputs = [_dense_last_axis(x) for x in (q, k, v)]
    # B first: its permuted copies die before anything else is allocated
    out_b, lse_b = kernel.forward(*(_split_times(x, grid) for x in inputs), scale)
    out_a, lse_a = kernel.forward(*(_split_views(x, grid) for x in inputs), scale)
    lse_a, lse_b = _join_views(lse_a, grid), _join_times(lse_b, grid)
    shift = torch.maximum(lse_a, lse_b)
    weight_a, weight_b = (lse_a - shift).exp(), (lse_b - shift).exp()
    out = torch.empty(shape, dtype=accumulation_dtype(q), device=q.device)
    torch.mul(_join_views(out_a, grid), weight_a[..., None], out=out)
    del out_a
    out.addcmul_(_join_times(out_b, grid).to(out.dtype), weight_b[..., None])
    del out_b
    out_c, lse_c = kernel.forward(*(_split_frames(x, grid) for x in inputs), scale)
    weight_c = (_join_views(lse_c, grid) - shift).exp()
    out.addcmul_(_join_views(out_c, grid).to(out.dtype), weight_c[..., None], value=-1)
    total = weight_a + weight_b - weight_c
    out.div_(total[..., None])
    return out.to(q.dtype).reshape(q.shape), (shift + total.log()).reshape(q.shape[:-1])


def merged_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grid: Grid,
    scale: float,
    kernel: DenseKernel,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each `b l h d`, contiguous; arguments as given to and by `merged_forward`."""
    inputs = [_dense_last_axis(x) for x in (grad, q, k, v, out)]
    shape = (q.shape[0], *grid, *q.shape[2:])
    parts = kernel.backward(*(_split_times(x, grid) for x in inputs), _split_times(lse, grid), scale)
    sums = [q.new_empty(shape, dtype=accumulation_dtype(q)).copy_(_join_times(x, grid)) for x in parts]
    del parts
    for split, sign in ((_split_views, 1), (_split_frames, -1)):
        parts = kernel.backward(*(split(x, grid) for x in inputs), split(lse, grid), scale)
        for total, part in zip(sums, parts):
            total.add_(_join_views(part, grid), alpha=sign)
    grad_q, grad_k, grad_v = (x.to(q.dtype).reshape(q.shape) for x in sums)
    return grad_q, grad_k, grad_v


def _dense_last_axis(x: Tensor) -> Tensor:
    """The kernels step through channels one by one; an expanded gradient does not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _split_views(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b V) h (T S) ...`, a view of contiguous x."""
    views, times, tokens = grid
    return x.reshape(x.shape[0] * views, times * tokens, *x.shape[2:]).transpose(1, 2)


def _split_frames(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b V T) h S ...`, a view of contiguous x."""
    views, times, tokens = grid
    return x.reshape(x.shape[0] * views * times, tokens, *x.shape[2:]).transpose(1, 2)


def _split_times(x: Tensor, grid: Grid) -> Tensor:
    """`b l h ...` -> `(b T) h (V S) ...`, the one that copies."""
    views, times, tokens = grid
    swapped = x.reshape(x.shape[0], *grid, *x.shape[2:]).transpose(1, 2)
    return swapped.reshape(x.shape[0] * times, views * tokens, *x.shape[2:]).transpose(1, 2)


def _join_views(x: Tensor, grid: Grid) -> Tensor:
    """Undoes `_split_views` and `_split_frames`: -> `b V T S h ...`."""
    return x.transpose(1, 2).reshape(-1, *grid, x.shape[1], *x.shape[3:])


def _join_times(x: Tensor, grid: Grid) -> Tensor:
    """Undoes `_split_times`: -> `b V T S h ...`."""
    views, times, tokens = grid
    return x.transpose(1, 2).reshape(-1, times, views, tokens, x.shape[1], *x.shape[3:]).transpose(1, 2)
