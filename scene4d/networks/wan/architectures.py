"""The three ways in which a base video model becomes a 4D one (paper, sec. 3.1 and Fig. 3), on the same base.

Each one equals the base on a video, that is on a grid of one view, before it is trained. What they add to the base
has names of its own, so that the base's weights keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import nn

from scene4d.networks.wan.attention import FusedViewTimeProcessor
from scene4d.networks.wan.base import WanBase
from scene4d.networks.wan.parallel_block import ParallelBlock
from scene4d.networks.wan.positions import (
    GridRotaryEmbedding,
    Positions,
    RowColumnRotaryEmbedding,
    ViewAfterView,
)
from scene4d.networks.wan.sequential_block import SequentialBlock


class Architecture(Protocol):
    """Turns a base video model into one of grids.

    Attributes:
        new: Regular expressions of the names of parameters that the base does not have.
        trainable: Regular expressions of the names of parameters that train by default.
        splits_views: Whether ranks may have a part of a grid's views each.
    """

    new: ClassVar[Sequence[str]]
    trainable: ClassVar[Sequence[str]]
    splits_views: ClassVar[bool]

    def install(self, base: WanBase) -> None:
        """Replaces layers of the base; its weights keep their names and values."""


@dataclass(frozen=True)
class Fused:
    """Every token attends to its own view and its own time in one softmax: no new parameter (paper, Eq. 1).

    Args:
        positions: Gives every latent frame of the grid its position in time: `ViewAfterView` or `Diagonal`. None
            means `ViewAfterView()`.
        backend: "auto", or another backend of `fused_view_time_attention`.
    """

    positions: Positions | None = None
    backend: str = "auto"
    new: ClassVar[Sequence[str]] = ()
    trainable: ClassVar[Sequence[str]] = (r"\.attn1\.",)
    splits_views: ClassVar[bool] = True

    def install(self, base: WanBase) -> None:
        """Replaces the self-attention and the positions."""
        positions = ViewAfterView() if self.positions is None else self.positions
        base.rope = GridRotaryEmbedding(base.config.attention_head_dim, base.config.patch_size, positions)
        _set_self_attention(base, self.backend)


@dataclass(frozen=True)
class Sequential:
    """Every block attends along the columns of the grid, and then, as the base, along its rows.

    The new layers across views start as copies of the base's self-attention, behind a linear layer that starts at
    zero (as in SynCamMaster, Bai et al. 2024).

    Args:
        backend: "auto", or another backend of `fused_view_time_attention`.
    """

    backend: str = "auto"
    new: ClassVar[Sequence[str]] = (r"\.attn_view\.", r"\.project_view\.")
    trainable: ClassVar[Sequence[str]] = (r"\.attn1\.", r"\.attn_view\.", r"\.project_view\.")
    splits_views: ClassVar[bool] = False

    def install(self, base: WanBase) -> None:
        """Replaces the blocks and the positions."""
        _set_self_attention(base, self.backend)
        _set_rows_and_columns(base)
        base.blocks = nn.ModuleList(SequentialBlock(block) for block in base.blocks)


@dataclass(frozen=True)
class Parallel:
    """Two streams of tokens, one along rows and one along columns, which linear layers synchronize (4Real-Video).

    Both streams go through the same blocks of the base, since a row and a column are both videos. After every block
    each stream adds a linear function of the two, which starts at zero. The prediction is that of the rows.

    Args:
        backend: "auto", or another backend of `fused_view_time_attention`.
    """

    backend: str = "auto"
    new: ClassVar[Sequence[str]] = (r"\.synchronize_(rows|columns)\.",)
    trainable: ClassVar[Sequence[str]] = (r"\.attn1\.", r"\.synchronize_(rows|columns)\.")
    splits_views: ClassVar[bool] = False

    def install(self, base: WanBase) -> None:
        """Replaces the blocks and the positions."""
        _set_self_attention(base, self.backend)
        _set_rows_and_columns(base)
        last = len(base.blocks) - 1
        base.blocks = nn.ModuleList(ParallelBlock(block, k == last) for k, block in enumerate(base.blocks))


def _set_self_attention(base: WanBase, backend: str) -> None:
    processors = {
        name: FusedViewTimeProcessor(backend) if ".attn1." in name else WanAttnProcessor()
        for name in base.attn_processors
    }
    base.set_attn_processor(processors)


def _set_rows_and_columns(base: WanBase) -> None:
    base.rope = RowColumnRotaryEmbedding(base.config.attention_head_dim, base.config.patch_size)
