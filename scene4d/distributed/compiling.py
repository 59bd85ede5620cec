"""Compiling the repeated blocks of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import nn


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
        block.compile()
