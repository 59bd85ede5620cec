"""Initial weights of a base model that is trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def initialize(base: Any) -> None:
    """Opens the gates and silences the branches; public checkpoints need none of it.

    Every block starts as the identity (zero output projections) under gates of one, and the output as zero
    (DiT's adaLN-zero, with the zeros where they get a gradient at the first step).

    Args:
        base: A `WanTransformer3DModel`.
    """
    projection = base.condition_embedder.time_proj
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    gates = projection.bias.view(6, -1)
    gates[2], gates[5] = 1, 1
    for block in base.blocks:
        block.scale_shift_table.zero_()
        for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    base.scale_shift_table.zero_()
    nn.init.zeros_(base.proj_out.weight)
    nn.init.zeros_(base.proj_out.bias)
