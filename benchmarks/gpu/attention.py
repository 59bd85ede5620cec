"""View-time attention: the merged form with every kernel, its parts, and all that one would use in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from benchmarks.gpu.timing import Timing, timed
from scene4d.kernels import merging
from scene4d.kernels.attention import KERNELS, fused_view_time_attention
from scene4d.kernels.merged_attention import SPLITS
from scene4d.kernels.sequences import Grid, split_frames, split_times, split_views

SIZES: tuple[tuple[Grid, int], ...] = (
    ((8, 8, 144), 12), ((8, 16, 144), 12), ((8, 8, 576), 12), ((8, 8, 144), 40), ((8, 16, 144), 40), ((8, 8, 576), 40),
)  # fmt: skip
TINY: tuple[tuple[Grid, int], ...] = (((3, 2, 8), 2), ((2, 3, 16), 2))
CACHE = 200e6  # bytes of inputs that take turns, several times the L2 cache of an H100
CUDA_KERNELS = ("flash", "cudnn", "efficient")
BLOCKS = (128, 64)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One size.

    Attributes:
        part: Measures rows.
        grid: (V, T, S).
        heads: Heads.
        channels: Channels of a head.
    """

    part: Part
    grid: Grid
    heads: int
    channels: int

    @property
    def labels(self) -> Cells:
        """The first cells of a row."""
        return {"grid": " x ".join(map(str, self.grid)), "heads": self.heads}

    @property
    def flops(self) -> float:
        """Useful operations of the forward pass: every query has (V + T - 1) S keys."""
        views, times, tokens = self.grid
        queries = math.prod(self.grid) * self.heads
        return 4.0 * self.channels * queries * tokens * (views + times - 1)

    def tensors(self, count: int, length: int | None = None, batch: int = 1) -> list[Tensor]:
        """Random `b l h d` tensors."""
        shape = (batch, length or math.prod(self.grid), self.heads, self.channels)
        dtype = torch.float32 if self.part.device.type == "cpu" else torch.bfloat16
        return [torch.randn(shape, device=self.part.device, dtype=dtype) for _ in range(count)]

    def sets(self, count: int) -> list[list[Tensor]]:
        """Sets of `count` inputs that take turns, so that none is in the cache."""
        size = 2 * count * math.prod(self.grid) * self.heads * self.channels
        return [
            self.tensors(count) for _ in range(max(2, math.ceil(CACHE / size)) if not self.part.tiny else 2)
        ]

    def row(self, method: str, measure: Callable[[], Cells], needs: float = 0.0) -> Cells:
        """Measures a row of this size."""
        return self.part.row({**self.labels, "method": method}, measure, needs)


def attention(part: Part) -> None:
    """All rows: first what is quick, at every size, then what has to be compiled."""
    channels = 16 if part.tiny else 128
    cases = [Case(part, grid, heads, channels) for grid, heads in (TINY if part.tiny else SIZES)]
    kernels = ("cpu", "math") if part.device.type == "cpu" else CUDA_KERNELS
    for case in cases:
        _whole_forms(case, kernels)
        _parts_of_the_merged_form(case, kernels[0])
    for case in cases[:1]:
        _compiled_merge(case, kernels[0])
    for case in cases:
        for block in BLOCKS:
            case.row(
                f"flex, blocks of {block}", partial(_both_passes, case, _flex(case.grid, block)), needs=12
            )


def _whole_forms(case: Case, kernels: tuple[str, ...]) -> None:
    for kernel in kernels[:2]:
        case.row(f"two dense calls, {kernel}", partial(_two_dense, case, kernel))
    for kernel in kernels:
        case.row(f"merged, {kernel}", partial(_merged, case, kernel))
    if case.part.device.type == "cuda":
        case.row(
            f"merged, {kernels[0]}, merge in plain torch", partial(_merged, case, kernels[0], plainly=True)
        )
    case.row("auto", partial(_both_passes, case, partial(fused_view_time_attention, grid=case.grid)))
    masked = partial(fused_view_time_attention, grid=case.grid, backend="masked")
    case.row("SDPA with mask", partial(_both_passes, case, masked))
    for kernel in kernels[:2]:
        case.row(f"full attention, {kernel}", partial(_full, case, kernel))


def _merged(case: Case, kernel: str, plainly: bool = False) -> Cells:
    with patch.object(merging, "has_kernel", lambda q: False) if plainly else nullcontext():
        attend = partial(fused_view_time_attention, grid=case.grid, backend=kernel)
        return _both_passes(case, attend, compared=True)


def _full(case: Case, kernel: str) -> Cells:
    with _only(kernel):
        return _both_passes(case, _sdpa)


def _flex(grid: Grid, block: int) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from scene4d.kernels.flex_attention import flex_view_time_attention

        return flex_view_time_attention(q, k, v, grid, q.shape[-1] ** -0.5, block)

    return attend


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@contextmanager
def _only(kernel: str) -> Iterator[None]:
    backend = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
               "efficient": SDPBackend.EFFICIENT_ATTENTION}.get(kernel, SDPBackend.MATH)  # fmt: skip
    with sdpa_kernel(backend):
        yield


def _both_passes(case: Case, attend: Attention, compared: bool = False) -> Cells:
    """Forward, and forward with backward."""
    return _figures(case, *_passes(case, attend, case.sets(3)), compared=compared)


def _passes(case: Case, attend: Attention, sets: list[list[Tensor]]) -> tuple[Timing, Timing | None]:
    with torch.no_grad():
        forward = timed(lambda i: attend(*sets[i % len(sets)]), case.part.device, ahead=True)
    leaves = [[x.requires_grad_() for x in inputs] for inputs in sets]
    cotangents = [torch.randn_like(inputs[0]) for inputs in sets]

    def both(number: int) -> None:
        inputs = leaves[number % len(sets)]
        torch.autograd.grad(attend(*inputs), inputs, cotangents[number % len(sets)])

    try:
        return forward, timed(both, case.part.device, ahead=True)
    except (RuntimeError, ValueError):
        if case.part.device.type == "cpu":  # FlexAttention has no backward pass there
            return forward, None
        raise


def _two_dense(case: Case, kernel: str) -> Cells:
    """Attention inside views and inside timesteps, each on inputs that lie ready for it."""
    views, times, tokens = case.grid
    with _only(kernel):
        a = _passes(case, _sdpa, _sets_of(case, views, times * tokens))
        b = _passes(case, _sdpa, _sets_of(case, times, views * tokens))
    summed = [None if x is None or y is None else _sum(x, y) for x, y in zip(a, b)]
    assert summed[0] is not None
    return _figures(case, summed[0], summed[1])


def _sets_of(case: Case, batch: int, length: int) -> list[list[Tensor]]:
    return [case.tensors(3, length, batch) for _ in range(2)]


def _sum(a: Timing, b: Timing) -> Timing:
    seconds, host, first = a.seconds + b.seconds, a.host + b.host, a.first + b.first
    return Timing(seconds, host, first, max(a.peak, b.peak), max(a.above, b.above))


def _figures(case: Case, forward: Timing, both: Timing | None, compared: bool = False) -> Cells:
    """Cells of a row; a merged form is compared with the faster of the two dense calls."""
    cells = _cells("forward", case.flops, forward)
    if both is not None:
        cells |= _cells("fwd + bwd", 3.5 * case.flops, both)
    if compared:
        rows = case.part.table.rows.values()
        dense = [
            x for x in rows if case.labels.items() <= x.items() and str(x["method"]).startswith("two dense")
        ]
        for name in ("forward, ms", "fwd + bwd, ms"):
            found = [float(x[name]) for x in dense if isinstance(x.get(name), float)]  # type: ignore[arg-type]
            own = cells.get(name)
            if found and isinstance(own, float):
                cells[f"{name[:-4]} / two dense"] = own / min(found)
    return cells


def _cells(name: str, flops: float, timing: Timing) -> Cells:
    return {
        f"{name}, ms": timing.seconds * 1e3, f"{name}, TFLOP/s": flops / timing.seconds / 1e12,
        f"{name}, host ms": timing.host * 1e3, f"{name}, MB above": timing.above / 1e6,
        f"{name}, first s": timing.first,
    }  # fmt: skip


def _parts_of_the_merged_form(case: Case, kernel: str) -> None:
    """Times of the pieces; the cells of the backward pass stand under it alone, not under both passes."""
    case.row(f"part: three dense calls, {kernel}", partial(_three_dense, case, kernel))
    case.row("part: permuted copies", partial(_copies, case))
    case.row("part: merge in plain torch", partial(_merges, case, kernel, _PLAIN))
    if case.part.device.type == "cuda":
        case.row("part: merge by Triton", partial(_merges, case, kernel, _CHOSEN))


_CHOSEN = (merging.merge_outputs, merging.merge_gradients)
_PLAIN = (merging.merge_outputs_plainly, merging.merge_gradients_plainly)


def _compiled_merge(case: Case, kernel: str) -> None:
    compiled = tuple(_compile(merge, case.part.tiny) for merge in _PLAIN)
    case.row("part: merge compiled", partial(_merges, case, kernel, compiled), needs=15)


def _compile(merge: Callable, tiny: bool) -> Callable:
    run = torch.compile(lambda parts, q, grid: merge(iter(parts), q, grid), disable=tiny, dynamic=False)
    return lambda parts, q, grid: run(list(parts), q, grid)


def _three_dense(case: Case, kernel: str) -> Cells:
    dense, scale, grid = KERNELS[kernel], case.channels**-0.5, case.grid
    inputs = [[[split(x, grid) for x in case.tensors(4)] for split in SPLITS] for _ in range(2)]
    results = [[dense.forward(*x[:3], scale) for x in parts] for parts in inputs]
    forward = timed(
        lambda i: [dense.forward(*x[:3], scale) for x in inputs[i % 2]], case.part.device, ahead=True
    )

    def backward(number: int) -> None:
        for (q, k, v, grad), (out, lse) in zip(inputs[number % 2], results[number % 2]):
            dense.backward(grad, q, k, v, out, lse, scale)

    return _piece(forward, timed(backward, case.part.device, ahead=True))


def _copies(case: Case) -> Cells:
    """Three inputs in the forward pass, and five in the backward pass."""
    sets = case.sets(5)

    def copy(count: int) -> Callable[[int], object]:
        return lambda i: [split_times(x, case.grid).contiguous() for x in sets[i % len(sets)][:count]]

    return _piece(*(timed(copy(count), case.part.device, ahead=True) for count in (3, 5)))


def _merges(case: Case, kernel: str, merges: tuple[Callable, ...]) -> Cells:
    dense, scale, grid = KERNELS[kernel], case.channels**-0.5, case.grid
    sets = case.sets(3)
    parts = [[dense.forward(*(split(x, grid) for x in inputs), scale) for split in SPLITS] for inputs in sets]
    splits = (split_times, split_views, split_frames)
    gradients = [[tuple(split(x, grid) for x in inputs) for split in splits] for inputs in sets]
    q, count, device = sets[0][0], len(sets), case.part.device
    forward = timed(lambda i: merges[0](iter(parts[i % count]), q, grid), device, ahead=True)
    backward = timed(lambda i: merges[1](iter(gradients[i % count]), q, grid), device, ahead=True)
    return _piece(forward, backward)


def _piece(forward: Timing, backward: Timing) -> Cells:
    return {
        "forward, ms": forward.seconds * 1e3, "backward alone, ms": backward.seconds * 1e3,
        "forward, host ms": forward.host * 1e3, "forward, first s": forward.first,
    }  # fmt: skip
