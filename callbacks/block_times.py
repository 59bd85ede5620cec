"""The time that this rank itself spends on the blocks of its network, without what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """A moment: seconds on a CPU, an event on the stream of a GPU, which nothing waits for."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(start: Mark, end: Mark) -> float:
    """The time between two moments; waits until a GPU has passed the second one."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000
    assert isinstance(start, float) and isinstance(end, float)  # of one device
    return end - start


class BlockTimes:
    """Notes when the forward pass of every block begins and ends.

    Ranks that exchange gradients or parameters need equally long for a step: the fast ones wait for the slow one. In
    the forward pass of a block nothing is waited for. FSDP2 gathers the parameters of a block before it, so that the
    hooks of this class lie within those of FSDP2.

    Attributes:
        active: Whether to note; the backward pass may compute blocks again.
    """

    def __init__(self) -> None:
        self.active = False
        self._marks: list[Mark] = []
        self._hooks: list[RemovableHandle] = []

    def watch(self, blocks: Iterable[nn.Module], device: torch.device) -> None:
        """Begins to watch blocks, and no longer those before."""
        self.remove()

        @torch.compiler.disable
        def note(*_: object) -> None:
            if self.active:
                self._marks.append(mark(device))

        for block in blocks:
            self._hooks += [
                block.register_forward_pre_hook(note),
                block.register_forward_hook(note, prepend=True),
            ]

    def take(self) -> list[tuple[Mark, Mark]]:
        """Beginnings and ends since the last time."""
        marks, self._marks = self._marks, []
        return list(zip(marks[::2], marks[1::2]))

    def remove(self) -> None:
        """Watches no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._marks, self.active = [], [], False
