"""View-time attention by torch's FlexAttention: one kernel that skips blocks of pairs that see nothing.

A block of 128 x 128 pairs that holds a single visible pair is computed whole, so this does 1.2 to 1.3 times the work
of the merged form at 144 tokens per frame and a little less at 576. It is compiled, needs no merging of three results,
and has a backward pass on CUDA only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

Grid = tuple[int, int, int]
BLOCK = 128
LEAST_CHANNELS = 16
REMEMBERED = 32  # grids: a training has a handful, an evaluation of strangers' videos may have more


def flex_view_time_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, scale: float, block: int = BLOCK
) -> Tensor:
    """Attention of every token to its own view and its own time.

    Args:
        q, k, v: `b l h d` with l = V T S, view-major; any strides.
        grid: (V, T, S).
        scale: Factor of the logits.
        block: Side of the blocks that are skipped or computed whole, a multiple of 64. Smaller blocks do less needless
            work and run less efficiently.

    Returns:
        `b l h d`.

    Raises:
        ValueError: Gradients are wanted on the CPU, or the kernel does not take the dtype or number of channels.
    """
    inputs = [x.transpose(1, 2) for x in (q, k, v)]
    if refusal := _refusal(inputs):
        raise ValueError(f"attention backend 'flex' {refusal}")
    attend = _attend if torch.compiler.is_compiling() else _compiled(grid, block)
    return attend(*inputs, block_mask(grid, q.device, block), scale, _options(block)).transpose(1, 2)


def _refusal(inputs: list[Tensor]) -> str | None:
    """Why FlexAttention does not take the inputs, the end of a sentence; None if it does."""
    q = inputs[0]
    if q.dtype == torch.float64:
        return "takes float16, bfloat16 or float32, got float64"
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return "has no gradients on the CPU, use 'auto' there"
    if q.device.type == "cuda" and q.shape[-1] < LEAST_CHANNELS:
        return f"takes heads of at least {LEAST_CHANNELS} channels on CUDA, got {q.shape[-1]}"
    return None


def block_mask(grid: Grid, device: torch.device, block: int = BLOCK) -> BlockMask:
    """Which blocks of pairs are skipped, masked or computed whole.

    A query sees a key where the key sees the query, so that both directions have the same lists.
    """
    lists = torch.ops.scene4d.view_time_blocks(*grid, block, device)
    length = math.prod(grid)
    return BlockMask((length, length), *lists, *lists, (block, block), _sees(grid))


@torch.library.custom_op("scene4d::view_time_blocks", mutates_args=())
def _lists_op(
    views: int, times: int, tokens: int, block: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gives copies, for a compiled caller may write into results; it sees one node and never builds the lists."""
    first, second, third, fourth = _lists((views, times, tokens), block, device)
    return first.clone(), second.clone(), third.clone(), fourth.clone()


@_lists_op.register_fake
def _(views, times, tokens, block, device):
    rows = -(-views * times * tokens // block)
    shapes = [(1, 1, rows), (1, 1, rows, rows)] * 2
    return tuple(torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes)


@lru_cache(maxsize=REMEMBERED)
def _lists(grid: Grid, block: int, device: torch.device) -> list[Tensor]:
    """Numbers and columns of the blocks of every row that need the mask, then of those that do not."""
    with torch.inference_mode(False):  # a training may use what a validation builds
        seen, unseen = _count_pairs(grid, block)
        whole = unseen == 0
        if math.prod(grid) % block:  # the last blocks reach over the end
            whole[-1] = whole[:, -1] = False
        return [x[None, None].to(device) for y in ((seen > 0) & ~whole, whole) for x in _ordered(y)]


def _count_pairs(grid: Grid, block: int) -> tuple[Tensor, Tensor]:
    """For every block, how many pairs of frames see each other and how many do not.

    A mask of all pairs of tokens, from which torch would build the same, takes gigabytes.
    """
    views, times, tokens = grid
    frame = torch.arange(views * times)
    view, time = frame // times, frame % times
    visible = ((view[:, None] == view) | (time[:, None] == time)).double()
    first, last = frame * tokens, (frame + 1) * tokens - 1
    start = torch.arange(0, views * times * tokens, block)[:, None]
    holds = ((first < start + block) & (last >= start)).double()  # blocks x frames
    return holds @ visible @ holds.T, holds @ (1 - visible) @ holds.T


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of blocks the number of those that are set, and their columns before all others."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _sees(grid: Grid) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    _, times, tokens = grid

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query, key = query // tokens, key // tokens
        return (query // times == key // times) | (query % times == key % times)

    return sees


@lru_cache(maxsize=REMEMBERED)
def _compiled(grid: Grid, block: int) -> Callable[..., Tensor]:
    """FlexAttention compiled for one grid: a code object each, for torch compiles one only a few times."""
    code = _attend.__code__.replace(co_name="attend_" + "_".join(map(str, (*grid, block))))
    return torch.compile(FunctionType(code, globals()), dynamic=False, fullgraph=True)


def _attend(q, k, v, block_mask, scale, kernel_options):
    return flex_attention(q, k, v, block_mask=block_mask, scale=scale, kernel_options=kernel_options)


def _options(block: int) -> dict[str, int] | None:
    """Sizes of the kernels' tiles, which must divide the block; None leaves the choice to torch."""
    if block % 128 == 0:
        return None
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")
    return dict.fromkeys(names, 64)
