"""Trains the small preset's autoencoder on single videos."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import lightning as L
import torch
from einops import rearrange
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from scene4d.networks.autoencoder import decode_grid, encode_grid
from scene4d.networks.trainable import trainable_parameters
from scene4d.types import SceneBatch


class AutoencoderTraining(L.LightningModule):
    """L1 + MSE reconstruction of videos; keeps running moments of the latents for their normalisation.

    Args:
        network: Builds a `PatchAutoencoder` (its forward returns reconstruction and raw latents).
        optimizer: Builds the optimizer from parameters.
        lr_scheduler: Builds a schedule from the optimizer, stepped every batch.
        edge_weight: Weight of the L1 distance of image gradients, which keeps edges sharp.
        latent_weight: Weight of the squared latents; keeps their scale near one.
        trainable: Regular expressions on parameter names; what matches trains. Names of the decoder alone sharpen
            it under diffusion models that know the latents already; their normalisation then stays, too.
        initial_batches: Training batches whose principal components start the linear part; 0 when the network
            starts from trained weights.
    """

    network: Any  # built in configure_model
    trainer: Any

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        edge_weight: float = 0.5,
        latent_weight: float = 1e-3,
        trainable: list[str] = [".*"],  # noqa: B006 - jsonargparse shows it as the default
        initial_batches: int = 16,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.build, self.make_optimizer, self.make_scheduler = network, optimizer, lr_scheduler
        self.edge_weight, self.latent_weight, self.initial_batches = (
            edge_weight,
            latent_weight,
            initial_batches,
        )
        self.trainable = trainable
        self.network = None
        self.results: dict = {}
        self.pictures: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        if self.network is None:
            self.network = self.build()
            trainable_parameters(self.network, self.trainable)

    def on_train_start(self) -> None:
        """Sets the linear part of an untrained network from a few hundred training videos."""
        if self.global_step == 0 and self.initial_batches > 0:
            batches = islice(self.trainer.datamodule.train_dataloader(), self.initial_batches)
            videos = torch.cat([rearrange(b.images, "b v t c h w -> (b v) c t h w") for b in batches])
            self.network.initialize(videos.to(self.device) * 2 - 1)

    def training_step(self, batch: SceneBatch, index: int) -> Tensor:
        video = rearrange(batch.images, "b v t c h w -> (b v) c t h w") * 2 - 1
        output, latents = self.network(video)
        difference = output - video
        edges = sum(difference.diff(dim=axis).abs().mean() for axis in (-1, -2))
        loss = difference.square().mean() * 4 + difference.abs().mean() + self.edge_weight * edges
        if any(p.requires_grad for p in self.network.encoder.parameters()):
            self._track_moments(latents.detach())
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/psnr", 6.02 - 10 * difference.detach().square().mean().log10(), prog_bar=True)
        return loss + self.latent_weight * latents.square().mean()

    def _track_moments(self, latents: Tensor, momentum: float = 0.01) -> None:
        """Exponential moving mean a channel and deviation of all, in the network's own buffers."""
        mean = latents.mean((0, 2, 3, 4))
        deviation = (latents - mean.view(1, -1, 1, 1, 1)).square().mean().sqrt()
        self.network.mean.lerp_(mean, momentum)
        self.network.std.lerp_(deviation.expand_as(self.network.std), momentum)

    def validation_step(self, batch: SceneBatch, index: int, dataloader_idx: int = 0) -> None:
        images = decode_grid(self.network, encode_grid(self.network, batch.images))
        error = (images - batch.images).square().mean((2, 3, 4, 5))
        name = batch.source[0]
        self.log(
            f"val/psnr_{name}", -10 * error.log10().mean(), add_dataloader_idx=False, batch_size=error.numel()
        )
        if index == 0:
            pair = torch.stack([batch.images[0, 0], images[0, 0]])[:, ::4]
            self.pictures[f"autoencoder_{name}"] = rearrange(pair, "n t c h w -> c (n h) (t w)").float()

    def on_validation_epoch_end(self) -> None:
        self.results = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")}

    def configure_optimizers(self):
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }
