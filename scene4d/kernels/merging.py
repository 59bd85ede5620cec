"""Merging of the three dense attentions and of their gradients: in plain torch, and by one Triton kernel on CUDA.

The formulas stand at the top of `merged_attention.py`. In plain torch the merge is a dozen passes over the output,
which on a GPU would take as long as the attention; the kernels of `triton_merging.py` make one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from scene4d.kernels.dense_attention import accumulation_dtype
from scene4d.kernels.sequences import Gradients, Grid, Part, join_times, join_views


def merge_outputs(parts: Iterator[Part], q: Tensor, grid: Grid) -> Part:
    """Merges dense attentions into the attention over the union of their keys.

    Args:
        parts: Those inside timesteps, inside views and inside frames, in this order. Each is asked for when it is
            needed, and nothing keeps it longer, so that memory stays low.
        q: The queries `b l h d`, for shape and type alone.
        grid: (V, T, S).

    Returns:
        Output `b l h d` in the dtype of q, and log-sum-exp `b l h` in float32 (float64 for float64); contiguous.
    """
    if has_kernel(q):
        from scene4d.kernels import triton_merging

        return triton_merging.merge_outputs(parts, q, grid)
    return merge_outputs_plainly(parts, q, grid)


def merge_gradients(parts: Iterator[Gradients], q: Tensor, grid: Grid) -> Gradients:
    """Adds the gradients of the attentions inside timesteps and inside views, and subtracts those inside frames.

    Args:
        parts: Gradients of q, k and v in this order; see `merge_outputs`.
        q: The queries `b l h d`, for shape and type alone.
        grid: (V, T, S).

    Returns:
        Three gradients `b l h d` in the dtype of q, contiguous.
    """
    if has_kernel(q):
        from scene4d.kernels import triton_merging

        return triton_merging.merge_gradients(parts, q, grid)
    return merge_gradients_plainly(parts, q, grid)


def has_kernel(q: Tensor) -> bool:
    """Whether Triton's kernels merge tensors like this one: on CUDA, up to float32."""
    return q.is_cuda and q.dtype != torch.float64 and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def merge_outputs_plainly(parts: Iterator[Part], q: Tensor, grid: Grid) -> Part:
    """`merge_outputs` in plain torch."""
    out_b, lse_b = next(parts)
    out_a, lse_a = next(parts)
    lse_a, lse_b = join_views(lse_a, grid), join_times(lse_b, grid)
    shift = torch.maximum(lse_a, lse_b)
    weight_a, weight_b = (lse_a - shift).exp(), (lse_b - shift).exp()
    out = torch.empty(q.shape[0], *grid, *q.shape[2:], dtype=accumulation_dtype(q), device=q.device)
    torch.mul(join_views(out_a, grid), weight_a[..., None], out=out)
    del out_a
    out.addcmul_(join_times(out_b, grid).to(out.dtype), weight_b[..., None])
    del out_b
    out_c, lse_c = next(parts)
    weight_c = (join_views(lse_c, grid) - shift).exp()
    out.addcmul_(join_views(out_c, grid).to(out.dtype), weight_c[..., None], value=-1)
    total = weight_a + weight_b - weight_c
    out.div_(total[..., None])
    return out.to(q.dtype).reshape(q.shape), (shift + total.log()).reshape(q.shape[:-1])


def merge_gradients_plainly(parts: Iterator[Gradients], q: Tensor, grid: Grid) -> Gradients:
    """`merge_gradients` in plain torch."""
    shape = (q.shape[0], *grid, *q.shape[2:])
    sums = [q.new_empty(shape, dtype=accumulation_dtype(q)).copy_(join_times(x, grid)) for x in next(parts)]
    for sign in (1, -1):
        for total, part in zip(sums, next(parts)):
            total.add_(join_views(part, grid), alpha=sign)
    grad_q, grad_k, grad_v = (x.to(q.dtype).reshape(q.shape) for x in sums)
    return grad_q, grad_k, grad_v
