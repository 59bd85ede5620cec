"""The network as its weight files made it, for losses of distillation."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from scene4d.networks.contracts import SceneNetwork
from scene4d.types import Prediction


class Teacher:
    """A frozen copy of a network, which no optimizer, average or checkpoint sees: it is no module.

    Args:
        network: The network at its initial weights.

    Raises:
        ValueError: Its weights are split over several ranks, and such a network cannot be copied.
    """

    def __init__(self, network: SceneNetwork) -> None:
        if any(isinstance(parameter, DTensor) for parameter in network.parameters()):
            raise ValueError(
                "losses of distillation need a copy of the network, which trainer.strategy fsdp2 cannot make; use ddp"
            )
        self.network = deepcopy(network).requires_grad_(False).eval()
        if isinstance(getattr(self.network, "gaussian_head", None), nn.Module):
            self.network.gaussian_head = None  # type: ignore[attr-defined]  # no loss compares it

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b v t 3 h w"]) -> Prediction:
        """Its prediction, on the device of the images and in the precision around the call."""
        return self.network.to(images.device)(images)
