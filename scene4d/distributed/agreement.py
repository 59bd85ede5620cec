"""Decisions that all processes take alike; without several processes each is the process's own."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


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


def share_of_mean(count: int, device: torch.device) -> float:
    """Weight of a rank's mean over `count` items, so that the average over ranks is the mean over all items.

    It is 1 where all ranks have equally many; every rank must call it.
    """
    if not dist.is_initialized():
        return 1.0
    total = torch.tensor([count], dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return count * dist.get_world_size() / max(total.item(), 1.0)


def from_all_ranks(value: Value) -> list[Value]:
    """What every rank gives, in the order of ranks; every rank must call it, with numbers, texts and lists of them."""
    if not dist.is_initialized():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first_rank(tensor: Tensor) -> Tensor:
    """Rank 0's values of a tensor that has the same shape on every rank; every rank must call it."""
    if not dist.is_initialized():
        return tensor
    tensor = tensor.clone().contiguous()
    dist.broadcast(tensor, src=0)
    return tensor
