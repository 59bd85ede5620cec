"""Reading and writing parameters that FSDP2 may have split over ranks.

A split tensor is a DTensor whose rows (its first axis) lie on the ranks of the mesh's last dimension, in order. Over
another dimension before it they are copied.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.utils import get_total_norm


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
    """A copy of `whole` on the device of `like`, split over ranks as `like` is; it may be split so already."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole.detach().to(like.device, copy=True)
    begin, end = own_rows(len(whole), like.device_mesh)
    return from_rows(whole.detach()[begin:end].to(like.device, copy=True), whole.shape, like.device_mesh)


def own_rows(count: int, mesh: DeviceMesh) -> tuple[int, int]:
    """The first of this rank's rows of a tensor with `count` rows, and the one behind its last."""
    ranks, rank = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
    each = -(-count // ranks)
    return min(rank * each, count), min((rank + 1) * each, count)


def from_rows(rows: Tensor, shape: torch.Size, mesh: DeviceMesh) -> DTensor:
    """A split tensor from this rank's rows; the memory is shared.

    Args:
        rows: This rank's rows, on the mesh's kind of device.
        shape: The shape of the whole.
        mesh: The ranks.
    """
    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        rows.contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride
    )


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers together, split or not; every rank must call it and gets the same."""
    given = [tensor.detach() for tensor in tensors]
    split = [x for x in given if isinstance(x, DTensor)]
    whole = [x for x in given if not isinstance(x, DTensor)]
    norms = [get_total_norm(whole)] if whole or not split else []
    if split:
        norm = get_total_norm(split)
        assert isinstance(norm, DTensor)
        norms.append(norm.full_tensor())
    return norms[0] if len(norms) == 1 else torch.stack([x.to(norms[0].device) for x in norms]).norm()
