"""The diffusion loss of held-out scenes, comparable between steps and runs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.evaluation.rows import Row
from scene4d.evaluation.table import SceneScores
from scene4d.latent_grid import latent_reference_mask
from scene4d.pipelines import GridGenerator
from scene4d.types import SceneBatch

FIXED_SIGMAS = (0.25, 0.5, 0.75, 1.0)


class FixedLosses:
    """Computes the mean loss over fixed noise levels, with the noise that belongs to each scene.

    Rows have the method "network" and the score "loss".
    """

    def __init__(self) -> None:
        self.pictures: dict[str, Float[Tensor, "c h w"]] = {}  # there are none

    def start(self, device: torch.device) -> None:
        """Forgets all losses."""
        self.scores = SceneScores(["network"], ["loss"], undefined=False).to(device)

    @torch.no_grad()
    def add(self, pipeline: GridGenerator, batch: SceneBatch) -> None:
        """Adds the losses of a batch that has its latents."""
        assert batch.latents is not None
        latents, mask = batch.latents, latent_reference_mask(batch.reference)
        noise, losses = pipeline.noise(batch, latents.shape[1:]), []
        for sigma in FIXED_SIGMAS:
            sigmas = latents.new_full((len(latents),), sigma)
            losses.append(pipeline.flow.loss(pipeline.network, latents, mask, batch.text, sigmas, noise))
        for source, key, loss in zip(batch.source, batch.keys, torch.stack(losses).mean(0).tolist()):
            self.scores.update(source, key, "network", {"loss": loss})

    def compute(self) -> list[Row]:
        """The mean loss of every source."""
        return self.scores.compute()
