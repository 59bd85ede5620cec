"""A block of the base that sees a grid as videos: its rows, or its columns."""

from __future__ import annotations

from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.wan.positions import Grid, GridPositions, RowColumnPositions

Tokens = Float[Tensor, "b l d"]


class GridBlock(WanTransformerBlock):
    """A block of the base whose layers and weights are taken over, with their names.

    Attributes:
        width: Channels of the tokens.

    Args:
        block: The base's block.
    """

    def __init__(self, block: nn.Module) -> None:
        nn.Module.__init__(self)  # no weights are made that the base's would replace
        for name, layer in block.named_children():
            setattr(self, name, layer)
        self.scale_shift_table = block.scale_shift_table  # type: ignore[assignment]  # a parameter
        self.width: int = self.scale_shift_table.shape[-1]

    def zero_linear(self, inputs: int) -> nn.Linear:
        """A linear layer to the width of the tokens that starts at zero."""
        like = self.scale_shift_table
        layer = nn.Linear(inputs, self.width, device=like.device, dtype=self.ffn.net[-1].weight.dtype)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def along_rows(
        self, tokens: Tokens, text: Tokens, modulation: Float[Tensor, "b 6 d"], positions: RowColumnPositions
    ) -> Tokens:
        """Runs the base's block on every fixed-view video of a grid."""
        rows = rows_of(tokens, positions.grid)
        return grid_of_rows(self._base(rows, text, modulation, positions.rows), positions.grid)

    def along_columns(
        self, tokens: Tokens, text: Tokens, modulation: Float[Tensor, "b 6 d"], positions: RowColumnPositions
    ) -> Tokens:
        """Runs the base's block on every freeze-time video of a grid."""
        columns = columns_of(tokens, positions.grid)
        return grid_of_columns(self._base(columns, text, modulation, positions.columns), positions.grid)

    def _base(
        self, videos: Tokens, text: Tokens, modulation: Float[Tensor, "b 6 d"], positions: GridPositions
    ) -> Tokens:
        count = len(videos) // len(text)
        text, modulation = text.repeat_interleave(count, 0), modulation.repeat_interleave(count, 0)
        # diffusers types positions as a tensor, and hands them on to the self-attention as they are
        return super().forward(videos, text, modulation, positions)  # type: ignore[arg-type]


def rows_of(tokens: Tokens, grid: Grid) -> Tokens:
    """Every fixed-view video as an entry of the batch."""
    return rearrange(tokens, "b (v l) d -> (b v) l d", v=grid[0])


def grid_of_rows(rows: Tokens, grid: Grid) -> Tokens:
    """The inverse of `rows_of`."""
    return rearrange(rows, "(b v) l d -> b (v l) d", v=grid[0])


def columns_of(tokens: Tokens, grid: Grid) -> Tokens:
    """Every freeze-time video as an entry of the batch."""
    return rearrange(tokens, "b (v t s) d -> (b t) (v s) d", v=grid[0], t=grid[1])


def grid_of_columns(columns: Tokens, grid: Grid) -> Tokens:
    """The inverse of `columns_of`."""
    return rearrange(columns, "(b t) (v s) d -> b (v t s) d", v=grid[0], t=grid[1])
