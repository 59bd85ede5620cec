"""The shape of a reconstruction loss: it takes the outcome of one training step and returns a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.types import Cameras, Gaussians, Prediction

Part = TypeVar("Part")


@dataclass
class Outcome:
    """The predictions of one training step beside the truth, in the normalised scene.

    Attributes:
        prediction: The network's prediction for the input views.
        depths: True planar z of the input views, 0 where unknown.
        cameras: True cameras of the input views, `b v`.
        generator: Draws what a loss leaves to chance; on the CPU.
        gaussians: Gaussians `b t g` that were placed by the prediction; None where a training places none.
        rendered: Views that were rendered from the Gaussians; None where a training renders none.
        truth: The true images of the rendered views.
        teacher: The prediction of the network at its initial weights; None unless a loss needs it.
        rendered_depths: Depth that the Gaussians show in the input views that were rendered; None unless a loss
            needs it, or where none was rendered.
        placed_depths: Depth that placed the Gaussians of these input views.
        placed_confidence: Confidence of that depth.
        figures: Numbers that losses find on the way and that are worth a curve, by name.
    """

    prediction: Prediction
    depths: Float[Tensor, "b v t h w"]
    cameras: Cameras
    generator: torch.Generator
    gaussians: Gaussians | None = None
    rendered: Float[Tensor, "b r t 3 h w"] | None = None
    truth: Float[Tensor, "b r t 3 h w"] | None = None
    teacher: Prediction | None = None
    rendered_depths: Float[Tensor, "b r t h w"] | None = None
    placed_depths: Float[Tensor, "b r t h w"] | None = None
    placed_confidence: Float[Tensor, "b r t h w"] | None = None
    figures: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class ReconstructionLoss(nn.Module):
    """One loss of a reconstruction network.

    Args:
        weight: Multiplies the loss in the sum that is trained on.

    Attributes:
        name: Name of the loss in the log.
        needs_teacher: Whether it compares with the network at its initial weights.
        needs_depth: Whether it needs the rendered depth of input views.
    """

    name: str
    needs_teacher = False
    needs_depth = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Returns the loss before it is weighted."""
        raise NotImplementedError

    def need(self, part: Part | None, name: str) -> Part:
        """Returns a part of the outcome that this loss cannot do without.

        Args:
            part: A part of an outcome.
            name: What makes the part, and how one gets it.

        Raises:
            ValueError: The part is None; names the loss and what it needs.
        """
        if part is None:
            raise ValueError(f"{type(self).__name__} (loss {self.name!r}) needs {name}")
        return part


def weighted_losses(losses: Iterable[nn.Module], outcome: Outcome) -> dict[str, Float[Tensor, ""]]:
    """Weighted losses by name, in the given order; their sum is what is trained on.

    Raises:
        ValueError: Two losses have one name, or a loss lacks what it needs.
    """
    found: dict[str, Float[Tensor, ""]] = {}
    for loss in losses:
        assert isinstance(loss, ReconstructionLoss)  # a ModuleList forgets the type
        if loss.name in found:
            raise ValueError(f"the loss {loss.name!r} is listed twice")
        found[loss.name] = loss.weight * loss(outcome)
    return found


def no_loss(prediction: Prediction) -> Float[Tensor, ""]:
    """0 with gradients of 0 for everything that predicts: the loss of a batch in which no scene can be used.

    Every rank then takes part in the exchange of gradients.
    """
    parts = [prediction.depths, prediction.depth_confidence, prediction.points, prediction.gaussians]
    tensors = [x for x in (*prediction.poses, *parts, prediction.match_features) if x is not None]
    return torch.stack([x.float().sum() for x in tensors]).sum() * 0
