"""Decisions that all processes take alike; without several processes each is the process's own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_first_rank() -> bool:
    """Whether this process says what all of them know."""
    return not dist.is_initialized() or dist.get_rank() == 0


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank; every rank must call it."""
    if not dist.is_initialized():
        return flag
    value = torch.tensor([flag], dtype=torch.uint8, device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def from_first_rank(tensor: Tensor) -> Tensor:
    """Rank 0's values of a tensor that has the same shape on every rank; every rank must call it."""
    if not dist.is_initialized():
        return tensor
    tensor = tensor.clone().contiguous()
    dist.broadcast(tensor, src=0)
    return tensor
