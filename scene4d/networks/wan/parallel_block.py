"""A block of two streams of tokens, along the rows and along the columns of a grid, with a synchronization."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.wan.grid_block import GridBlock, Tokens
from scene4d.networks.wan.positions import RowColumnPositions


class ParallelBlock(GridBlock):
    """Runs the base's block on both streams and adds to each of them a linear function of the two.

    The streams lie behind each other, `b (2 l) d`. The first block makes two equal streams of the tokens of a grid,
    and the last one returns that of the rows.

    Args:
        block: The base's block.
        last: Whether it is the last block.
    """

    def __init__(self, block: nn.Module, last: bool) -> None:
        super().__init__(block)
        self.synchronize_rows = self.zero_linear(2 * self.width)
        self.synchronize_columns = None if last else self.zero_linear(2 * self.width)

    def forward(  # type: ignore[override]  # positions of rows and columns
        self, tokens: Tokens, text: Tokens, modulation: Float[Tensor, "b 6 d"], positions: RowColumnPositions
    ) -> Tokens:
        """Updates both streams; arguments are those of the base's block."""
        views, times, size = positions.grid
        streams = tokens.split(views * times * size, 1)  # one or two
        rows = self.along_rows(streams[0], text, modulation, positions)
        columns = self.along_columns(streams[-1], text, modulation, positions)
        both = torch.cat([rows, columns], -1)
        rows = rows + self.synchronize_rows(both)
        if self.synchronize_columns is None:
            return rows
        return torch.cat([rows, columns + self.synchronize_columns(both)], 1)
