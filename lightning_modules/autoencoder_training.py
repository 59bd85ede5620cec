"""Trains the small preset's autoencoder on single videos."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.training import Schedule, Training
from scene4d.evaluation.table import SceneScores
from scene4d.networks.autoencoder import PatchAutoencoder, decode_grid, encode_grid
from scene4d.types import SceneBatch


class AutoencoderTraining(Training):
    """Trains an autoencoder to reconstruct single videos, with the sum of an L1 and a squared error.

    Running means and deviations of the latents are kept in the network, which normalises its latents by them.

    Args:
        network: Builds a `PatchAutoencoder`; its forward pass returns the reconstruction and the raw latents.
        optimizer: Builds the optimizer from the parameters that train.
        lr_scheduler: Builds the learning rate schedule from optimizer and number of steps; None keeps a constant rate.
        edge_weight: Weight of the L1 distance of image gradients; a larger weight keeps edges sharper.
        latent_weight: Weight of the squared latents, which keeps their scale near one.
        trainable: Regular expressions; parameters whose name matches one are trained, all others are frozen. If no
            parameter of the encoder trains, the latents and their normalisation stay as they are, so that existing
            diffusion models fit the result.
        initial_weights: Weight files that are loaded in this order, later ones over earlier ones. A training from
            scratch starts from the linear part that `python -m preparation.linear_codec` finds.
    """

    network: PatchAutoencoder

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: Schedule | None = None,
        edge_weight: float = 0.5,
        latent_weight: float = 1e-3,
        trainable: list[str] = [".*"],  # noqa: B006 - jsonargparse shows it as the default
        initial_weights: list[str] = [],  # noqa: B006
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, initial_weights, trainable)
        self.save_hyperparameters()
        self.edge_weight, self.latent_weight = edge_weight, latent_weight
        self.scores = SceneScores(["autoencoder"], ["psnr"])

    def training_step(self, batch: SceneBatch, batch_index: int) -> Float[Tensor, ""]:
        """Returns the loss of the batch's videos."""
        video = rearrange(batch.images, "b v t c h w -> (b v) c t h w") * 2 - 1
        output, latents = self.network(video, self.step_generator(batch_index))
        difference = output - video
        edges = sum(difference.diff(dim=axis).abs().mean() for axis in (-1, -2))
        loss = difference.square().mean() * 4 + difference.abs().mean() + self.edge_weight * edges
        if any(p.requires_grad for p in self.network.encoder.parameters()):
            self._track_moments(latents.detach())
        psnr = 6.02 - 10 * difference.detach().square().mean().log10()
        self.log_means({"loss": loss, "psnr": psnr}, len(batch.images), shown=("loss", "psnr"))
        return loss + self.latent_weight * latents.square().mean()

    def _track_moments(self, latents: Float[Tensor, "n z m y x"], momentum: float = 0.01) -> None:
        """Moves the network's buffers: a mean per channel, and one deviation of all channels."""
        mean = latents.mean((0, 2, 3, 4))
        deviation = (latents - mean.view(1, -1, 1, 1, 1)).square().mean().sqrt()
        self.network.mean.lerp_(mean, momentum)
        self.network.std.lerp_(deviation.expand_as(self.network.std), momentum)

    def on_validation_epoch_start(self) -> None:
        """Forgets the scores and pictures of the last validation."""
        self.scores.reset()
        self.pictures.clear()

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Encodes and decodes every held-out scene, and scores the result."""
        images = decode_grid(self.network, encode_grid(self.network, batch.images))
        values = -10 * (images - batch.images).square().mean((1, 2, 3, 4, 5)).log10()
        for source, key, value in zip(batch.source, batch.keys, values.tolist()):
            self.scores.update(source, key, "autoencoder", {"psnr": value}, failed=math.isnan(value))
        name = f"autoencoder_{batch.source[0]}"
        if name not in self.pictures:
            pair = torch.stack([batch.images[0, 0], images[0, 0]])[:, ::4]
            self.pictures[name] = rearrange(pair, "n t c h w -> c (n h) (t w)").float()

    def on_validation_epoch_end(self) -> None:
        """Puts the scores into `results` and logs them by source."""
        rows = self.scores.compute()
        self.results = {"autoencoder": rows}
        self.log_dict({f"val/psnr_{row.source}": row.value for row in rows}, sync_dist=True)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end
