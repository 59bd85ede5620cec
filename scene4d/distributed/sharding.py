"""Reading and writing parameters that FSDP2 may have split over ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def reshard(module: nn.Module) -> None:
    """Frees gathered parameters: an evaluation forward leaves the root gathered, and edits would be lost."""
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's values, sharing memory with `tensor`."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather(tensor: Tensor) -> Tensor:
    """A whole copy on the CPU; every rank must call it."""
    tensor = tensor.detach()
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.to("cpu", copy=True)


def scatter(whole: Tensor, like: Tensor) -> Tensor:
    """`whole` on the device of `like`, split over ranks as `like` is; every rank must call it."""
    whole = whole.to(like.device, copy=True)
    if isinstance(like, DTensor):
        with torch.no_grad():
            return distribute_tensor(whole, like.device_mesh, like.placements)
    return whole
