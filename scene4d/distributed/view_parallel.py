"""Splits the views of every grid over ranks, from outside of a network: each rank computes its own views.

The ranks of a group have the same batch and noise. Everything outside of the network stays as it is: it gives the
network whole grids, and gets whole grids from it, in training and in sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed.device_mesh import DeviceMesh

Latents = Float[Tensor, "b v n z y x"]


@dataclass(frozen=True)
class ViewPart:
    """The views of a grid that a rank has, as an argument of a network's forward pass.

    Attributes:
        rank: Number of the part: its views follow those of the parts before.
        ranks: The number of parts, which have equally many views.
        group: Name of the process group whose ranks have one part each, in order.
    """

    rank: int
    ranks: int
    group: str

    def of(self, grid: Float[Tensor, "b v *rest"]) -> Float[Tensor, "b w *rest"]:
        """This part of a whole grid.

        Raises:
            ValueError: The views cannot be split evenly.
        """
        views = grid.shape[1]
        if views % self.ranks:
            raise ValueError(
                f"a grid of {views} view{'s' * (views > 1)} cannot be split over the {self.ranks} ranks that share "
                "it: its number of views must be a multiple, or set views of trainer.strategy to a divisor"
            )
        each = views // self.ranks
        return grid[:, self.rank * each : (self.rank + 1) * each]


def split_views(network: nn.Module, mesh: DeviceMesh) -> None:
    """Makes a network compute this rank's views only, in place; its callers still give and get whole grids.

    All ranks of `mesh` must call the network together, with equal arguments. They get equal outputs, and must make of
    them equal losses: then the mean over these ranks of the gradients of parameters is the gradient of that loss.
    FSDP2 and DDP take this mean anyway.

    Args:
        network: Takes a part of a grid as another argument, `part`; says so as `splits_views`.
        mesh: The ranks that share a grid, of one dimension.

    Raises:
        ValueError: The network cannot have its views split.
    """
    if not getattr(network, "splits_views", False):
        raise ValueError(
            f"trainer.strategy: views is {mesh.size()}, but the views of {_described(network)} cannot be split over "
            "ranks: set it to 1, or train the diffusion model with the architecture scene4d.networks.wan.Fused"
        )
    group = mesh.get_group()
    part = ViewPart(mesh.get_local_rank(), mesh.size(), group.group_name)
    # assigned to the instance: a wrapper module would give every parameter another name
    network.forward = partial(_forward, network.forward, part, group)  # type: ignore[method-assign]


def _described(network: nn.Module) -> str:
    architecture = getattr(network, "architecture", None)
    name = type(network).__name__.removeprefix("FSDP")
    return name if architecture is None else f"{name} with {type(architecture).__name__}"


def _forward(
    forward: Callable[..., Latents],
    part: ViewPart,
    group: dist.ProcessGroup,
    latents: Latents,
    sigmas: Float[Tensor, " b"],
    text: Float[Tensor, "b l d"] | None = None,
    references: Latents | None = None,
    reference_mask: Bool[Tensor, "b v n"] | None = None,
) -> Latents:
    given = (None if x is None else part.of(x) for x in (references, reference_mask))
    output = forward(part.of(latents), sigmas, text, *given, part=part)
    return _GatherViews.apply(output, part, group)


class _GatherViews(torch.autograd.Function):
    """Puts the parts of a grid together.

    Every rank differentiates the same loss, by its own part alone. The gradients of parameters of all ranks must be
    added up then; the factor makes their mean this sum.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor, part: ViewPart, group: dist.ProcessGroup) -> Tensor:
        """Gives `b (n v) ...` from every rank's `b v ...`."""
        ctx.part = part  # type: ignore[attr-defined]
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(part.ranks)]
        dist.all_gather(parts, own.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The share of this rank's part."""
        part: ViewPart = ctx.part  # type: ignore[attr-defined]
        return part.of(grad) * part.ranks, None, None
