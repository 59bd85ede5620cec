"""Activation checkpointing of the repeated blocks of a network: less memory for more computation."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from scene4d.distributed.compiling import HasBlocks

Checkpointing = Literal["none", "full", "selective"]
KEPT = (  # operators by name, so that nothing has to be imported
    "scene4d::fused_view_time_attention",
    "scene4d::view_parallel_attention",
    "scene4d::dense_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
)


def checkpoint_blocks(network: HasBlocks, checkpointing: Checkpointing) -> None:
    """Makes the backward pass compute the blocks again, in place; names of parameters stay.

    Args:
        network: Its blocks are changed, and its `heads` if it has such modules beside them.
        checkpointing: "full" keeps only the input of every block and head. "selective" also keeps the outputs of
            attention, whose computation is the most expensive. "none" changes nothing.
    """
    if checkpointing == "none":
        return
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    options = {} if checkpointing == "full" else {"context_fn": contexts}
    for block in (*network.blocks, *getattr(network, "heads", ())):
        # assigned to the instance: a wrapper module would give every parameter another name
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, **options)


def _policy(
    context: object, operator: torch._ops.OpOverload, *args: object, **options: object
) -> CheckpointPolicy:
    kept = operator.name().split(".")[0] in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
