"""Merging and reordering of `merging.py` as Triton kernels: every tensor is read once and every result written once.

Outputs and gradients of the kernels behind `DenseKernel` lie in memory as `n l h d`, so that a frame is one piece in
all of them, and only the order of the frames differs. Another layout is copied first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from scene4d.kernels.sequences import Gradients, Grid, Part

ROWS = 16  # tokens of one head that a program merges
CHUNK = 2048  # numbers of a frame that a program moves
MOST = 5  # tensors of a launch


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
    """See `scene4d.kernels.merging.merge_gradients`; one launch for all three."""
    by_times, by_views, by_frames = ([_by_token(x) for x in part] for part in parts)
    views, times, tokens = grid
    totals = [torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3)]
    size = tokens * math.prod(q.shape[2:])
    programs = (triton.cdiv(size, CHUNK), q.shape[0] * views * times)
    _add_frames[programs](*by_views, *by_times, *by_frames, *totals, views, times, size, CHUNK)
    return totals[0], totals[1], totals[2]


def split_times(tensors: Sequence[Tensor], grid: Grid) -> list[Tensor]:
    """`scene4d.kernels.sequences.split_times` of up to five tensors of one shape and dtype, in one launch."""
    views, times, tokens = grid
    inputs = [x.contiguous() for x in tensors]
    batch, _, heads, channels = inputs[0].shape
    swapped = torch.empty((len(inputs), *inputs[0].shape), dtype=inputs[0].dtype, device=inputs[0].device)
    size = tokens * heads * channels
    programs = (triton.cdiv(size, CHUNK), batch * views * times)
    sources = inputs + inputs[:1] * (MOST - len(inputs))  # the rest is not looked at
    _swap_frames[programs](*sources, swapped, views, times, size, swapped[0].numel(), CHUNK, len(inputs))
    shape = (len(inputs), batch * times, views * tokens, heads, channels)
    return list(swapped.view(shape).transpose(2, 3).unbind(0))


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
def _places(views, times, size, CHUNK: tl.constexpr):
    """Where a piece of a frame lies in the order of views and in that of times, and which of it exists."""
    frame = tl.program_id(1)
    time, video = frame % times, frame // times
    view, batch = video % views, video // views
    swapped = (batch * times + time) * views + view
    place = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    return frame.to(tl.int64) * size + place, swapped.to(tl.int64) * size + place, place < size


@triton.jit
def _added(by_views, by_times, by_frames, total, here, there, used):
    added = tl.load(by_views + here, mask=used, other=0.0).to(tl.float32)
    added += tl.load(by_times + there, mask=used, other=0.0).to(tl.float32)
    added -= tl.load(by_frames + here, mask=used, other=0.0).to(tl.float32)
    tl.store(total + here, added.to(total.dtype.element_ty), mask=used)


@triton.jit
def _add_frames(
    views_q, views_k, views_v, times_q, times_k, times_v, frames_q, frames_k, frames_v, total_q, total_k, total_v,
    views, times, size, CHUNK: tl.constexpr,
):  # fmt: skip
    here, there, used = _places(views, times, size, CHUNK)
    _added(views_q, times_q, frames_q, total_q, here, there, used)
    _added(views_k, times_k, frames_k, total_k, here, there, used)
    _added(views_v, times_v, frames_v, total_v, here, there, used)


@triton.jit
def _swap_frames(
    first, second, third, fourth, fifth, swapped, views, times, size, step, CHUNK: tl.constexpr, COUNT: tl.constexpr
):  # fmt: skip
    here, there, used = _places(views, times, size, CHUNK)
    step = step.to(tl.int64)
    tl.store(swapped + there, tl.load(first + here, mask=used), mask=used)
    if COUNT > 1:
        tl.store(swapped + step + there, tl.load(second + here, mask=used), mask=used)
    if COUNT > 2:
        tl.store(swapped + 2 * step + there, tl.load(third + here, mask=used), mask=used)
    if COUNT > 3:
        tl.store(swapped + 3 * step + there, tl.load(fourth + here, mask=used), mask=used)
    if COUNT > 4:
        tl.store(swapped + 4 * step + there, tl.load(fifth + here, mask=used), mask=used)
