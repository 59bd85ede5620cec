"""Splitting a network over ranks by FSDP2 (`torch.distributed.fsdp.fully_shard`), from outside, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from scene4d.distributed.compiling import HasBlocks

SHARD = "shard"  # the mesh's dimension over which parameters are split


def is_sharding(mesh: DeviceMesh | None) -> TypeGuard[DeviceMesh]:
    """Whether a mesh has a dimension over which parameters are to be split."""
    return mesh is not None and SHARD in (mesh.mesh_dim_names or ())


def shard_blocks(network: HasBlocks, mesh: DeviceMesh, half: torch.dtype | None = None) -> None:
    """Splits the parameters of every block over the ranks, and then those outside of blocks; in place.

    Every rank keeps its rows of every parameter, of its gradient and of what the optimizer keeps for it. A block's
    parameters are whole while it computes. Names stay, and the optimizer must be built afterwards.

    Args:
        network: Its `blocks` are split one by one. Blocks below a module that it names in `float32_parts` are
            gathered in their own type.
        mesh: The ranks, with a dimension "shard"; over a dimension "replicate" before it parameters are copied.
        half: Type in which blocks are gathered and their gradients computed, which halves what is sent; the sum over
            ranks is float32. None keeps the parameters' own types. Parameters and optimizer always keep theirs.

    Raises:
        ValueError: A parameter is a single number without axes, which has no rows.
    """
    assert isinstance(network, nn.Module)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"parameter {name!r} has no axes and cannot be split over ranks: give it the shape 1"
            )
    own = MixedPrecisionPolicy(cast_forward_inputs=False)
    gathered = own if half is None else MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    full = _below(network, getattr(network, "float32_parts", ()))
    for block in network.blocks:
        fully_shard(block, mesh=mesh, mp_policy=own if block in full else gathered)
    fully_shard(network, mesh=mesh, mp_policy=own)


def _below(network: nn.Module, names: Sequence[str]) -> set[nn.Module]:
    return {module for name in names for module in network.get_submodule(name).modules()}
