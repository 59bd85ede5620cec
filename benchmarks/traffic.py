"""What ranks send to each other in a step, and how long that takes at stated rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scene4d.kernels.dense_attention import accumulation_dtype

# of the data around the ring; what an all-to-all sends goes straight to where it is wanted
PASSES = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1}
# Operators that exchange inside, where a dry run does not look: the number of tensors as large as q, and the arguments
# that are q and the process group. One log-sum-exp per head is sent beside.
EXCHANGING = {
    "scene4d::view_parallel_attention": (4, 0, 9),
    "scene4d::view_parallel_attention_backward": (8, 1, 12),
}


@dataclass(frozen=True)
class Collective:
    """One operation of a group of ranks.

    Attributes:
        kind: "all-gather", "reduce-scatter", "all-reduce" or "all-to-all".
        size: Bytes of the whole tensor; in an all-to-all, of what one rank sends, its own part included.
        ranks: The group.
    """

    kind: str
    size: int
    ranks: tuple[int, ...]

    @property
    def sent(self) -> float:
        """Bytes that every rank sends."""
        return PASSES[self.kind] * self.size * (1 - 1 / len(self.ranks))


@dataclass(frozen=True)
class Rates:
    """Rates of a machine; the defaults are those of nodes of eight A100s.

    Args:
        peak: TFLOP/s of one GPU in bfloat16, from its data sheet.
        efficiency: Share of the peak at which all that is computed runs, what checkpointing computes again included. An
            assumption: 0.4 is usual for large transformers on A100s.
        memory: GB of one GPU.
        gpus_per_node: GPUs of a node.
        within_node: GB/s that one GPU sends to the others of its node (NVLink 3: 300 in each direction).
        between_nodes: GB/s per GPU between nodes (one adapter of 200 Gbit/s per GPU: 25). In a ring all GPUs of a
            node share their adapters.
    """

    peak: float = 312.0
    efficiency: float = 0.4
    memory: float = 80.0
    gpus_per_node: int = 8
    within_node: float = 300.0
    between_nodes: float = 25.0

    def communication_seconds(self, collectives: Iterable[Collective]) -> float:
        """Sum over operations, each at the rate of its slowest link; latencies are not counted."""
        return sum(self._seconds(x) for x in collectives)

    def _seconds(self, operation: Collective) -> float:
        nodes = len({rank // self.gpus_per_node for rank in operation.ranks})
        within = operation.sent / self.within_node
        # of one node that take part in a ring; in an all-to-all every rank sends as much through its own
        adapters = 1 if operation.kind == "all-to-all" else len(operation.ranks) / nodes
        between = PASSES[operation.kind] * operation.size * (1 - 1 / nodes) / (adapters * self.between_nodes)
        return max(within, between) / 1e9

    def compute_seconds(self, flops: float) -> float:
        """Seconds of so many floating point operations on one GPU."""
        return flops / (self.peak * 1e12 * self.efficiency)


class Traffic(TorchDispatchMode):
    """Writes down the collective operations of this rank while it is active.

    Attributes:
        collectives: Those of FSDP2 and of split views, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[Collective] = []

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = operator.name()
        if name in EXCHANGING:
            self.collectives.append(_exchange(name, args))
        elif operator.namespace == "c10d":
            self.collectives += _collective(name, args)
        return operator(*args, **(kwargs or {}))


def _exchange(name: str, args: Sequence[object]) -> Collective:
    """What attention with split views sends in one call."""
    count, first, last = EXCHANGING[name]
    q, group = args[first], args[last]
    assert isinstance(q, Tensor) and isinstance(group, str)
    heads = q.numel() // q.shape[-1]
    size = count * q.numel() * q.element_size() + heads * accumulation_dtype(q).itemsize
    ranks = dist.get_process_group_ranks(_resolve_process_group(group))  # type: ignore[arg-type]  # a NewType of str
    return Collective("all-to-all", size, tuple(ranks))


def _collective(name: str, args: Sequence[object]) -> list[Collective]:
    """The operation behind a call, whose tensors come first and whose group comes next."""
    kinds = {
        "c10d::_allgather_base_": ("all-gather", 0, 2),
        "c10d::allgather_": ("all-gather", 0, 2),
        "c10d::_reduce_scatter_base_": ("reduce-scatter", 1, 2),
        "c10d::allreduce_": ("all-reduce", 0, 1),
    }
    if name not in kinds:
        return []
    kind, whole, group = kinds[name]
    size = sum(x.numel() * x.element_size() for x in tree_leaves(args[whole]) if isinstance(x, Tensor))
    ranks = dist.get_process_group_ranks(dist.ProcessGroup.unbox(args[group]))
    return [Collective(kind, size, tuple(ranks))]
