"""Losses of rendered views and of the Gaussians that they are rendered from."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.supervision import masked_mean
from scene4d.losses.outcome import Outcome, ReconstructionLoss
from scene4d.losses.perceptual import PerceptualLoss

RENDERED = "rendered views: use it in lightning_modules.GaussianReconstruction"


class ImageLoss(ReconstructionLoss):
    """Compares rendered with true views by their mean squared error; their PSNR is logged as `psnr`."""

    name = "mse"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares rendered with true views.

        Raises:
            ValueError: Nothing was rendered.
        """
        rendered, truth = self.need(outcome.rendered, RENDERED), self.need(outcome.truth, RENDERED)
        mse = (rendered - truth).square().mean()
        outcome.figures["psnr"] = -10 * mse.detach().clamp(min=1e-8).log10()
        return mse


class PerceptualImageLoss(ReconstructionLoss):
    """Compares rendered with true views by a perceptual distance, which gives its name to the log (`PerceptualLoss`).

    Args:
        weight: Multiplies the loss in the sum that is trained on.
        chosen_for: The distance that the weight was chosen for, `lpips_vgg` or `squeezenet_distance`: the log warns
            where the other one is used. None warns of nothing.
    """

    def __init__(
        self, weight: float = 0.5, chosen_for: Literal["lpips_vgg", "squeezenet_distance"] | None = None
    ) -> None:
        super().__init__(weight)
        self.distance = PerceptualLoss()
        self.distance.announce(chosen_for)
        self.name = self.distance.score

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Compares rendered with true views.

        Raises:
            ValueError: Nothing was rendered.
        """
        rendered, truth = self.need(outcome.rendered, RENDERED), self.need(outcome.truth, RENDERED)
        return self.distance(rendered.flatten(0, 2).clamp(0, 1), truth.flatten(0, 2)).mean()


class BackgroundLoss(ReconstructionLoss):
    """Lowers the opacity of Gaussians whose pixels have no depth in a frame with known depth: they should vanish."""

    name = "background"

    def forward(self, outcome: Outcome) -> Float[Tensor, ""]:
        """Looks at the Gaussians of empty pixels.

        Raises:
            ValueError: No Gaussians were placed.
        """
        gaussians = self.need(
            outcome.gaussians, "Gaussians: use it in lightning_modules.GaussianReconstruction"
        )
        depths = outcome.depths
        stored = (
            (depths > 0).flatten(3).any(-1)[..., None, None]
        )  # in other frames depth is unknown, not empty
        empty = rearrange(stored & (depths <= 0), "b v t h w -> b t (v h w)")
        return masked_mean(gaussians.opacities, empty)
