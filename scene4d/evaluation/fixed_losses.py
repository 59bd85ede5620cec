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
LEVELS = [f"loss_at_{sigma}" for sigma in FIXED_SIGMAS]


class FixedLosses:
    """Computes the loss at fixed noise levels and its mean over them, with the noise that belongs to each scene.

    Rows have the method "network" and the scores "loss", which is the mean, and "loss_at_0.25" and the like.
    """

    def __init__(self) -> None:
        self.pictures: dict[str, Float[Tensor, "c h w"]] = {}  # there are none

    def start(self, device: torch.device) -> None:
        """Forgets all losses."""
        self.scores = SceneScores(["network"], ["loss", *LEVELS], undefined=False).to(device)

    @torch.no_grad()
    def add(self, pipeline: GridGenerator, batch: SceneBatch) -> None:
        """Adds the losses of a batch that has its latents."""
        assert batch.latents is not None
        latents, mask = batch.latents, latent_reference_mask(batch.reference)
        noise, losses = pipeline.noise(batch, latents.shape[1:]), []
        text = pipeline.captions.embed_or_nothing(batch)
        for sigma in FIXED_SIGMAS:
            sigmas = latents.new_full((len(latents),), sigma)
            losses.append(pipeline.flow.loss(pipeline.network, latents, mask, text, sigmas, noise))
        rows = torch.stack([torch.stack(losses).mean(0), *losses], 1).tolist()
        for source, key, values in zip(batch.source, batch.keys, rows):
            self.scores.update(source, key, "network", dict(zip(("loss", *LEVELS), values, strict=True)))

    def compute(self) -> list[Row]:
        """The mean loss of every source."""
        return self.scores.compute()
