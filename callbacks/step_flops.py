"""Counts the floating point operations of a training step, attention kernels included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import unwrap

from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
}  # dense bf16 TFLOP/s


def peak_tflops(device_name: str) -> float | None:
    """Dense bf16 TFLOP/s of a GPU by its name, from NVIDIA's data sheets; None if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


class StepFlops(FlopCounterMode):
    """Counts what runs while it is active, but not what checkpointed blocks compute again in the backward pass.

    Matrix products, convolutions and attention count, 2 for a multiplication and an addition; backward passes count as
    far as gradients are needed. This is the convention of model FLOPs (Chowdhery et al. 2022, appendix B).
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.backward, self._again = False, 0
        self.mod_tracker = _NoModules()  # type: ignore[assignment]

    def _count_flops(self, func_packet: object, out: object, *rest: object) -> object:
        return out if self._again else super()._count_flops(func_packet, out, *rest)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Marks what a checkpointed block runs: in the backward pass it is computed for the second time."""
        before, self._again = self._again, int(self.backward)
        try:
            yield
        finally:
            self._again = before

    def watch(self, blocks: Iterable[nn.Module]) -> Callable[[], None]:
        """Tells a block's first computation from the second; the result undoes it."""
        found = [
            (block, block.forward, unwrap(block.forward)) for block in blocks
        ]  # of compiled ones, what they compile
        before = [(b, f, g) for b, f, g in found if isinstance(g, partial) and g.func is checkpoint]
        for block, _, plain in before:
            block.forward = partial(checkpoint, self._marked(plain.args[0]), **plain.keywords)

        def undo() -> None:
            for block, forward, _ in before:
                block.forward = forward

        return undo

    def _marked(self, forward: Callable) -> Callable:
        def run(*args: object, **options: object) -> object:
            with self.again():
                return forward(*args, **options)

        return run


class _NoModules(nullcontext[None]):
    """In the place of what tells modules apart.

    Its hooks on the outputs of modules would keep all that checkpointed blocks compute again alive until the end of the
    backward pass, as if nothing were checkpointed.
    """

    parents = ("Global",)
