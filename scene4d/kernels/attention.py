"""Fused view-time self-attention: every token sees its own view and its own time in one softmax.

One door, `fused_view_time_attention`, with three kinds of backends behind it: the merged form of
`merged_attention.py` (exact, about a quarter of the work of a mask on an 8 x 8 grid), `flex`, which skips blocks of
a mask, and `masked`, the plain twin of both: SDPA with a dense mask. The merged form is a `torch.library` operator, so
torch.compile, activation checkpointing and the FLOP counter see one node. It has no double backward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scene4d.kernels.dense_attention import (
    CPU,
    CUDNN,
    EFFICIENT,
    FLASH,
    HALF,
    MATH,
    accumulation_dtype,
)
from scene4d.kernels.flex_attention import flex_view_time_attention
from scene4d.kernels.merged_attention import merged_backward, merged_forward

KERNELS = {kernel.name: kernel for kernel in (CPU, MATH, FLASH, EFFICIENT, CUDNN)}
BACKENDS = ("auto", "masked", "flex", *KERNELS)


def fused_view_time_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int, int],
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of every token (v, t, s) to all tokens of the same view or the same time.

    4Real-Video-V2, Eq. 1. With one view or one time this is plain attention over all tokens, and exactly
    one call of `F.scaled_dot_product_attention`, bit for bit, except for the backend `math`. In half precision on
    the CPU the same holds for the output, while gradients are computed in float32 and rounded once.

    Args:
        q, k, v: `b l h d` with l = V T S, token (v, t, s) at (v T + t) S + s; any strides. Under autocast
            they are cast to its dtype, as SDPA does.
        grid: (V, T, S): views, times (latent frames), tokens per frame.
        scale: Factor of the logits; None means 1 / sqrt(d).
        backend: `auto` picks by device and dtype: cpu on the CPU; flash (half precision) or efficient (float32) on
            CUDA; math wherever these do not fit. cpu, math, flash, efficient and cudnn name the dense kernel of the
            merged form. flex is torch's FlexAttention, compiled for every grid, with gradients on CUDA only. masked
            is SDPA with an l x l mask, for comparison. The CUDA kernels were never run.

    Returns:
        `b l h d`.

    Raises:
        ValueError: Shapes or dtypes of q, k, v differ, l is not V T S, the backend is unknown, or it does not take
            their device, dtype or number of channels.
    """
    device = q.device.type
    # torch.amp.is_autocast_available breaks the graph of torch 2.11
    if device in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(device):
        q, k, v = (x.to(torch.get_autocast_dtype(device)) for x in (q, k, v))
    _check(q, k, v, grid, backend)
    views, times, tokens = grid
    if (views == 1 or times == 1) and backend != "math":
        if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
            return torch.ops.scene4d.dense_attention(
                q, k, v, 1 / math.sqrt(q.shape[-1]) if scale is None else scale
            )[0]
        return _dense(q, k, v, scale, None)
    if backend == "masked":
        return _dense(q, k, v, scale, view_time_mask(grid, q.device))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if backend == "flex":
        return flex_view_time_attention(q, k, v, grid, scale)
    if backend == "auto":
        backend = _choose_backend(q)
    return torch.ops.scene4d.fused_view_time_attention(q, k, v, views, times, tokens, scale, backend)[0]


def view_time_mask(grid: tuple[int, int, int], device: torch.device | None = None) -> Tensor:
    """Bool `l l`, True where a query (row) may see a key: same view or same time (Eq. 1)."""
    views, times, tokens = grid
    frame = torch.arange(views * times, device=device).repeat_interleave(tokens)
    view, time = frame // times, frame % times
    return (view[:, None] == view[None]) | (time[:, None] == time[None])


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float | None, mask: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


def _choose_backend(q: Tensor) -> str:
    if q.device.type == "cpu":
        return "cpu"
    if q.device.type != "cuda":
        return "math"
    kernel = FLASH if q.dtype in HALF else EFFICIENT
    return "math" if kernel.refusal(q) else kernel.name


def _check(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(f"grid {tuple(grid)} must be three positive numbers (views, times, tokens)")
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(f"q, k, v must have one shape b l h d, got {[tuple(x.shape) for x in (q, k, v)]}")
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise ValueError(f"q, k, v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[1] != math.prod(grid):
        raise ValueError(f"{q.shape[1]} tokens are not views x times x tokens = {' x '.join(map(str, grid))}")
    refusal = KERNELS[backend].refusal(q) if backend in KERNELS else None
    if refusal is not None:
        raise ValueError(f"attention backend {backend!r} {refusal}")


@torch.library.custom_op("scene4d::fused_view_time_attention", mutates_args=())
def _forward_op(
    q: Tensor, k: Tensor, v: Tensor, views: int, times: int, tokens: int, scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        return merged_forward(q, k, v, (views, times, tokens), scale, KERNELS[backend])


@_forward_op.register_fake
def _(q, k, v, views, times, tokens, scale, backend):
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:-1], dtype=accumulation_dtype(q), device=q.device)


@torch.library.custom_op("scene4d::fused_view_time_attention_backward", mutates_args=())
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
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        grid = (views, times, tokens)
        return merged_backward(grad, q, k, v, out, lse, grid, scale, KERNELS[backend])


@_backward_op.register_fake
def _(grad, q, k, v, out, lse, views, times, tokens, scale, backend):
    q, k, v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return q, k, v


def _save(ctx, inputs, output):
    q, k, v, *ctx.rest = inputs
    out, lse = output
    ctx.save_for_backward(q, k, v, out, lse)
    ctx.mark_non_differentiable(lse)


def _backward(ctx, grad, _):
    grads = torch.ops.scene4d.fused_view_time_attention_backward(grad, *ctx.saved_tensors, *ctx.rest)
    return (*grads, *(None for _ in ctx.rest))


_forward_op.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("scene4d::dense_attention", mutates_args=())
def _dense_op(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Runs what SDPA runs for half precision on the CPU, bit for bit, with the float32 backward of `CPU`."""
    out, lse = CPU.forward(*(x.transpose(1, 2) for x in (q, k, v)), scale)
    return out.transpose(1, 2).contiguous(), lse.contiguous()


@_dense_op.register_fake
def _(q, k, v, scale):
    lse = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=accumulation_dtype(q), device=q.device)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), lse


@torch.library.custom_op("scene4d::dense_attention_backward", mutates_args=())
def _dense_backward_op(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = CPU.backward(*(x.transpose(1, 2) for x in (grad, q, k, v, out)), lse, scale)
    grad_q, grad_k, grad_v = (x.transpose(1, 2).contiguous() for x in grads)
    return grad_q, grad_k, grad_v


@_dense_backward_op.register_fake
def _(grad, q, k, v, out, lse, scale):
    q, k, v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return q, k, v


def _dense_save(ctx, inputs, output):
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _dense_backward(ctx, grad, _):
    return (*torch.ops.scene4d.dense_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None)


_dense_op.register_autograd(_dense_backward, setup_context=_dense_save)


def _query_key_pairs(shape: torch.Size, views: int, times: int, tokens: int) -> int:
    """Scored pairs times channels: every query has T S, V S and S keys in the three dense attentions."""
    return math.prod(shape) * tokens * (times + views + 1)


@register_flop_formula(torch.ops.scene4d.fused_view_time_attention)
def _forward_flops(q, k, v, views, times, tokens, *args, out_shape=None):
    return 4 * _query_key_pairs(q, views, times, tokens)


@register_flop_formula(torch.ops.scene4d.fused_view_time_attention_backward)
def _backward_flops(grad, q, k, v, out, lse, views, times, tokens, *args, out_shape=None):
    return 10 * _query_key_pairs(q, views, times, tokens)


@register_flop_formula(torch.ops.scene4d.dense_attention)
def _dense_flops(q, k, v, *args, out_shape=None):
    return 4 * math.prod(q) * q[1]


@register_flop_formula(torch.ops.scene4d.dense_attention_backward)
def _dense_backward_flops(grad, q, k, v, *args, out_shape=None):
    return 10 * math.prod(q) * q[1]
