"""Compiling the repeated blocks of a network."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class HasBlocks(Protocol):
    """A network that names its repeated blocks."""

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The repeated blocks."""
        ...


def compile_blocks(network: HasBlocks) -> None:
    """Compiles the blocks with torch.compile, in place.

    Equal blocks share one compilation, so that this is done far sooner than compiling the whole network. It needs a
    C++ compiler on the CPU.
    """
    for block in network.blocks:
        if isinstance(block.forward, partial):
            # `checkpoint` is a function that torch never compiles from, called by `Module.compile` as it stands; inside
            # a compiled function it is a node of the graph
            block.forward = torch.compile(block.forward)
        else:
            block.compile()
