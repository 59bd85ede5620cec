"""A block that attends across views and across times in turn."""

from __future__ import annotations

from copy import deepcopy

from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.wan.grid_block import GridBlock, Tokens, columns_of, grid_of_columns
from scene4d.networks.wan.positions import RowColumnPositions


class SequentialBlock(GridBlock):
    """Self-attention along the columns of a grid, and then the base's block along its rows.

    Weights of `attn_view` that a file does not have are copied from the `attn1` that it has.

    Args:
        block: The base's block.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.attn_view = deepcopy(self.attn1)
        self.project_view = self.zero_linear(self.width)
        self._register_load_state_dict_pre_hook(_copy_attention)

    def forward(  # type: ignore[override]  # positions of rows and columns
        self, tokens: Tokens, text: Tokens, modulation: Float[Tensor, "b 6 d"], positions: RowColumnPositions
    ) -> Tokens:
        """Attends across views, then runs the base's block; arguments are those of the base's block."""
        tokens = self._attend_to_views(tokens, modulation, positions)
        return self.along_rows(tokens, text, modulation, positions)

    def _attend_to_views(
        self, tokens: Tokens, modulation: Float[Tensor, "b 6 d"], positions: RowColumnPositions
    ) -> Tokens:
        shift, scale, gate = (self.scale_shift_table + modulation.float())[:, :3].chunk(3, 1)
        normalised = (self.norm1(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        columns = columns_of(normalised, positions.grid)
        attended = self.project_view(self.attn_view(columns, None, None, positions.columns))
        return (tokens.float() + grid_of_columns(attended, positions.grid) * gate).type_as(tokens)


def _copy_attention(weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Adds what `attn_view` starts from to the weights of a base model."""
    own = f"{prefix}attn1."
    for name in [name for name in weights if name.startswith(own)]:
        weights.setdefault(f"{prefix}attn_view.{name.removeprefix(own)}", weights[name])
