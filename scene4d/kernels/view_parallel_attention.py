"""Fused view-time self-attention of grids whose views are split over processes.

Every rank has some views of the grid at all times. In the terms of `merged_attention.py`, A (inside views) and C
(inside frames) need nothing from others. B (inside timesteps) needs all views: the ranks exchange (all-to-all) their
views of all times for all views of some times, attend there, and exchange the results back. The merge and the backward
pass are those of one process, with the global output and log-sum-exp, so that nothing is approximated.

A rank sends (n - 1) / n of the bytes of 4 such tensors as q forward and of 8 backward, beside log-sum-exps. The
exchanged q, k and v are sent again backward instead of being kept, which would take as much memory as all else that
attention keeps.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils.flop_counter import register_flop_formula

from scene4d.kernels.attention import KERNELS, autocast_inputs, check_inputs, chosen_kernel
from scene4d.kernels.dense_attention import DenseKernel, accumulation_dtype
from scene4d.kernels.merged_attention import PLAIN, SPLITS, dense_last_axis
from scene4d.kernels.merging import merge_gradients, merge_outputs
from scene4d.kernels.sequences import Gradients, Grid, Part


def view_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int, int],
    ranks: int,
    group: str,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of this rank's tokens (v, t, s) to all tokens of the grid of the same view or the same time.

    Equal to `fused_view_time_attention` of the whole grid, of which every rank of the group gives and gets its own
    views. All ranks of the group must call it together, and run its backward pass together.

    Args:
        q, k, v: `b l h d` with l = V T S, this rank's views; see `fused_view_time_attention`.
        grid: (V, T, S): views of this rank, as many as of any other rank; times; tokens per frame.
        ranks: The number of ranks that share the grid.
        group: Name of the process group of these ranks.
        scale: Factor of the logits; None means 1 / sqrt(d).
        backend: auto, cpu, math, flash, efficient or cudnn; see `fused_view_time_attention`.

    Returns:
        `b l h d`.

    Raises:
        ValueError: T is no multiple of the number of ranks, the backend has no form for split views, or
            `fused_view_time_attention` would raise.
    """
    q, k, v = autocast_inputs(q, k, v)
    check_inputs(q, k, v, grid, backend)
    if backend != "auto" and backend not in KERNELS:
        raise ValueError(
            f"attention backend {backend!r} takes whole grids, and views are split over ranks: use auto, or "
            f"{', '.join(KERNELS)}"
        )
    views, times, tokens = grid
    if times % ranks:
        raise ValueError(
            f"{times} latent frames per view are no multiple of the {ranks} ranks that share a grid: give another "
            "number of frames, or set views of trainer.strategy to a divisor"
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return torch.ops.scene4d.view_parallel_attention(
        q, k, v, views, times, tokens, ranks, scale, backend, group
    )[0]


def _forward_parts(
    inputs: Sequence[Tensor], grid: Grid, scale: float, kernel: DenseKernel, group: dist.ProcessGroup
) -> Iterator[Part]:
    """The attentions inside timesteps, views and frames of this rank's tokens."""
    out, lse = kernel.forward(*_to_times(inputs, grid, group), scale)
    yield _to_views([out], grid, group)[0], _to_views([lse], grid, group)[0]
    del out, lse
    for split in SPLITS[1:]:
        yield kernel.forward(*split(inputs, grid), scale)


def _backward_parts(
    inputs: Sequence[Tensor],
    lse: Tensor,
    grid: Grid,
    scale: float,
    kernel: DenseKernel,
    group: dist.ProcessGroup,
) -> Iterator[Gradients]:
    """Their gradients of q, k and v; `inputs` are grad, q, k, v and out."""
    exchanged = [*_to_times(inputs, grid, group), *_to_times([lse], grid, group)]
    grads = kernel.backward(*exchanged, scale)
    del exchanged
    grad_q, grad_k, grad_v = _to_views(grads, grid, group)
    del grads
    yield grad_q, grad_k, grad_v
    del grad_q, grad_k, grad_v
    for split, split_lse in zip(SPLITS[1:], PLAIN[1:]):
        yield kernel.backward(*split(inputs, grid), split_lse(lse, grid), scale)


def _to_times(tensors: Sequence[Tensor], grid: Grid, group: dist.ProcessGroup) -> list[Tensor]:
    """This rank's views of all times, `b l h ...`, for all views of this rank's times, `(b T/n) h (n V S) ...`."""
    (views, times, _), ranks = grid, group.size()
    pattern = "b (v n t s) ... -> n b t v s ..."
    received = _exchange([rearrange(x, pattern, v=views, n=ranks, t=times // ranks) for x in tensors], group)
    return [rearrange(x, "n b t v s h ... -> (b t) (n v s) h ...").transpose(1, 2) for x in received]


def _to_views(tensors: Sequence[Tensor], grid: Grid, group: dist.ProcessGroup) -> list[Tensor]:
    """Undoes `_to_times`, up to the order: gives this rank's views of all times, `(b T) h (V S) ...`."""
    (views, times, _), ranks = grid, group.size()
    pattern = "(b t) h (n v s) ... -> n b t v s h ..."
    received = _exchange([rearrange(x, pattern, t=times // ranks, n=ranks, v=views) for x in tensors], group)
    return [rearrange(x, "n b t v s h ... -> (b n t) (v s) h ...").transpose(1, 2) for x in received]


def _exchange(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Sends the j-th of the first axis to rank j, and gives what every rank has sent, in the order of ranks."""
    first = tensors[0]
    sent = first.new_empty((len(first), len(tensors), *first.shape[1:]))
    for number, x in enumerate(tensors):
        sent[:, number].copy_(x)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return list(received.unbind(1))


def _group(name: str) -> dist.ProcessGroup:
    """Operators take names, and torch offers no public way back from them."""
    return _resolve_process_group(name)  # type: ignore[arg-type]  # a NewType of str


@torch.library.custom_op("scene4d::view_parallel_attention", mutates_args=())
def _forward_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    views: int,
    times: int,
    tokens: int,
    ranks: int,
    scale: float,
    backend: str,
    group: str,
) -> tuple[Tensor, Tensor]:
    grid, inputs = (views, times, tokens), [dense_last_axis(x) for x in (q, k, v)]
    kernel = chosen_kernel(backend, q, tokens)
    with torch.autocast(q.device.type, enabled=False):
        return merge_outputs(_forward_parts(inputs, grid, scale, kernel, _group(group)), q, grid)


@_forward_op.register_fake
def _(q, k, v, views, times, tokens, ranks, scale, backend, group):
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:-1], dtype=accumulation_dtype(q), device=q.device)


@torch.library.custom_op("scene4d::view_parallel_attention_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    views: int,
    times: int,
    tokens: int,
    ranks: int,
    scale: float,
    backend: str,
    group: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grid, inputs = (views, times, tokens), [dense_last_axis(x) for x in (grad, q, k, v, out)]
    kernel = chosen_kernel(backend, q, tokens)
    with torch.autocast(q.device.type, enabled=False):
        return merge_gradients(_backward_parts(inputs, lse, grid, scale, kernel, _group(group)), q, grid)


@_backward_op.register_fake
def _(grad, q, k, v, out, lse, views, times, tokens, ranks, scale, backend, group):
    q, k, v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return q, k, v


def _save(ctx, inputs, output):
    q, k, v, *ctx.rest = inputs
    out, lse = output
    ctx.save_for_backward(q, k, v, out, lse)
    ctx.mark_non_differentiable(lse)


def _backward(ctx, grad, _):
    grads = torch.ops.scene4d.view_parallel_attention_backward(grad, *ctx.saved_tensors, *ctx.rest)
    return (*grads, *(None for _ in ctx.rest))


_forward_op.register_autograd(_backward, setup_context=_save)


def _query_key_pairs(shape: torch.Size, views: int, times: int, tokens: int, ranks: int) -> int:
    """Scored pairs times channels of one rank, whose B has as many queries as it has tokens."""
    return math.prod(shape) * tokens * (times + views * ranks + 1)


@register_flop_formula(torch.ops.scene4d.view_parallel_attention)
def _forward_flops(q, k, v, views, times, tokens, ranks, *args, out_shape=None):
    return 4 * _query_key_pairs(q, views, times, tokens, ranks)


@register_flop_formula(torch.ops.scene4d.view_parallel_attention_backward)
def _backward_flops(grad, q, k, v, out, lse, views, times, tokens, ranks, *args, out_shape=None):
    return 10 * _query_key_pairs(q, views, times, tokens, ranks)
