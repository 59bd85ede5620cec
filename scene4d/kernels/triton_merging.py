"""The merge of `merging.py` as Triton kernels: every tensor is read once and every result written once.

Outputs and gradients of the kernels behind `DenseKernel` lie in memory as `n l h d`, so that a frame is one piece in
all of them, and only the order of the frames differs. Another layout is copied first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from scene4d.kernels.sequences import Gradients, Grid, Part

ROWS = 16  # tokens of one head that a program merges
CHUNK = 4096  # numbers of a frame that a program adds


def merge_outputs(parts: Iterator[Part], q: Tensor, grid: Grid) -> Part:
    """See `scene4d.kernels.merging.merge_outputs`."""
    (out_b, lse_b), (out_a, lse_a), (out_c, lse_c) = parts
    heads, channels = q.shape[2:]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    count, lses = lse.numel() // heads, [x.contiguous() for x in (lse_a, lse_b, lse_c)]
    _merge_outputs[(heads, triton.cdiv(count, ROWS))](
        *map(_by_token, (out_a, out_b, out_c)), *lses, out, lse, count, *grid, heads, channels,
        triton.next_power_of_2(channels), ROWS,
    )  # fmt: skip
    return out, lse


def merge_gradients(parts: Iterator[Gradients], q: Tensor, grid: Grid) -> Gradients:
    """See `scene4d.kernels.merging.merge_gradients`."""
    by_times, by_views, by_frames = parts
    grad_q, grad_k, grad_v = (_sum(a, b, c, q, grid) for a, b, c in zip(by_views, by_times, by_frames))
    return grad_q, grad_k, grad_v


def _sum(by_views: Tensor, by_times: Tensor, by_frames: Tensor, q: Tensor, grid: Grid) -> Tensor:
    views, times, tokens = grid
    total, size = torch.empty(q.shape, dtype=q.dtype, device=q.device), tokens * math.prod(q.shape[2:])
    parts = map(_by_token, (by_views, by_times, by_frames))
    programs = (triton.cdiv(size, CHUNK), q.shape[0] * views * times)
    _add_frames[programs](*parts, total, views, times, size, CHUNK)
    return total


def _by_token(x: Tensor) -> Tensor:
    """`n h l d` -> `n l h d`, contiguous."""
    return x.transpose(1, 2).contiguous()


@triton.jit
def _merge_outputs(
    out_a, out_b, out_c, lse_a, lse_b, lse_c, out, lse,
    count, views, times, tokens, heads, channels, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    token, frame = row % tokens, row // tokens
    time, video = frame % times, frame // times
    view, batch = video % views, video // views
    column = batch * times + time  # the sequence of the timestep, in which the views follow each other
    a = tl.load(
        lse_a + (video * heads + head) * times * tokens + time * tokens + token, mask=inside, other=0.0
    )
    b = tl.load(
        lse_b + (column * heads + head) * views * tokens + view * tokens + token, mask=inside, other=0.0
    )
    c = tl.load(lse_c + (frame * heads + head) * tokens + token, mask=inside, other=0.0)
    shift = tl.maximum(a, b)
    a, b, c = tl.exp(a - shift), tl.exp(b - shift), tl.exp(c - shift)
    total = a + b - c
    tl.store(lse + row * heads + head, shift + tl.log(total), mask=inside)
    a, b, c = a / total, b / total, c / total

    channel = tl.arange(0, WIDTH)
    here = (row.to(tl.int64) * heads + head)[:, None] * channels + channel[None, :]
    swapped = (column * views + view) * tokens + token
    there = (swapped.to(tl.int64) * heads + head)[:, None] * channels + channel[None, :]
    used = inside[:, None] & (channel < channels)[None, :]
    merged = tl.load(out_a + here, mask=used, other=0.0).to(tl.float32) * a[:, None]
    merged += tl.load(out_b + there, mask=used, other=0.0).to(tl.float32) * b[:, None]
    merged -= tl.load(out_c + here, mask=used, other=0.0).to(tl.float32) * c[:, None]
    tl.store(out + here, merged.to(out.dtype.element_ty), mask=used)


@triton.jit
def _add_frames(by_views, by_times, by_frames, total, views, times, size, CHUNK: tl.constexpr):
    frame = tl.program_id(1)
    time, video = frame % times, frame // times
    view, batch = video % views, video // views
    swapped = (batch * times + time) * views + view
    place = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    here, there, used = frame.to(tl.int64) * size + place, swapped.to(tl.int64) * size + place, place < size
    added = tl.load(by_views + here, mask=used, other=0.0).to(tl.float32)
    added += tl.load(by_times + there, mask=used, other=0.0).to(tl.float32)
    added -= tl.load(by_frames + here, mask=used, other=0.0).to(tl.float32)
    tl.store(total + here, added.to(total.dtype.element_ty), mask=used)
