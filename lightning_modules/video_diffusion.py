"""Trains and runs the 4D video diffusion model; with one view, the base video model."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_modules.grid_evaluation import GridEvaluation
from scene4d.diffusion.rectified_flow import RectifiedFlow, latent_reference_mask
from scene4d.networks.autoencoder import autoencoder_fingerprint, decode_grid, encode_grid
from scene4d.networks.pretrained import load_weights
from scene4d.networks.trainable import trainable_parameters
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)

FIXED_SIGMAS = (0.25, 0.5, 0.75, 1.0)


class VideoDiffusion(L.LightningModule):
    """Rectified flow on the view x time grid (paper, sec. 3.1), reference frames given.

    Training fine-tunes what `trainable` names: the self-attention (paper) or, for the base model, everything.
    Validation inside `fit` logs the loss at fixed noise levels and fixed noise, by source, and shows one sampled
    grid a source. `validate` and `test` score samples and baselines (`GridEvaluation`) into `results`.
    `predict` returns the grid as a `SceneBatch` whose reference frames are the given ones.

    Args:
        network: Builds the network, for example `scene4d.networks.WanGridTransformer`.
        autoencoder: Builds the frozen autoencoder, `PatchAutoencoder` or `WanAutoencoder`.
        flow: Objective and sampler.
        optimizer: Builds the optimizer from the trainable parameters.
        lr_scheduler: Builds a schedule from the optimizer, stepped every batch; None = constant.
        trainable: Regular expressions on parameter names of the network; what matches trains.
        initial_weights: safetensors files loaded in this order. A file may hold a part, for example the
            fine-tuned self-attention on top of the base model; together they must cover the network, unless it
            starts from weights of its own (`pretrained`).
        evaluation: What `validate` and `test` score.
        sample_steps: Euler steps of sampling.
        guidance: Weight of classifier-free guidance; 1 = off, as the paper has it when both videos are given.
        text_dropout: Probability of training a sample without its caption.
        sample_seed: Of the noise that sampling starts from.
        compile: Whether to compile the network's blocks (`compile_blocks`); needs a C++ compiler on the CPU.
    """

    network: Any  # built in configure_model
    autoencoder: Any
    trainer: Any

    def __init__(
        self,
        network: Callable[[], nn.Module],
        autoencoder: Callable[[], nn.Module],
        flow: RectifiedFlow,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        trainable: list[str] = [r"\.attn1\."],  # noqa: B006 - jsonargparse shows it as the default
        initial_weights: list[str] = [],  # noqa: B006
        evaluation: GridEvaluation | None = None,
        sample_steps: int = 8,
        guidance: float = 1.0,
        text_dropout: float = 0.1,
        sample_seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.build_network, self.build_autoencoder, self.flow = network, autoencoder, flow
        self.make_optimizer, self.make_scheduler = optimizer, lr_scheduler
        self.trainable, self.initial_weights = trainable, initial_weights
        self.evaluation = evaluation or GridEvaluation()
        self.sample_steps, self.guidance = sample_steps, guidance
        self.text_dropout, self.sample_seed, self.compile_network = text_dropout, sample_seed, compile
        self.network = self.autoencoder = None
        self.results: dict = {}
        self.pictures: dict[str, Tensor] = {}
        self.fixed_losses: dict[str, list[Tensor]] = {}
        self.source_losses: dict[str, list[Tensor]] = {}

    def configure_model(self) -> None:
        """Builds the networks once, on whatever device and precision the strategy sets up."""
        if self.network is not None:
            return
        network: Any = self.build_network()
        if self.initial_weights:
            load_weights(network, self.initial_weights, optional=[""] if network.has_weights else [])
        count = len(trainable_parameters(network, self.trainable))
        log.info("%d parameter tensors of the network train", count)
        if self.compile_network:
            network.compile_blocks()
        self.autoencoder = self.build_autoencoder().eval().requires_grad_(False)
        self.network = network

    def configure_optimizers(self):
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_start(self) -> None:
        self.autoencoder.eval()

    @property
    def fitting(self) -> bool:
        """Whether this is training, its validation included (where trainer.validating is true, too)."""
        return self.trainer.state.fn == TrainerFn.FITTING

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b v t c h w"]) -> Float[Tensor, "b v n z y x"]:
        """Images in [0, 1] to normalised latents, float32."""
        return encode_grid(self.autoencoder, images).float()

    def encode_references(
        self, images: Float[Tensor, "b v t c h w"], reference: Bool[Tensor, "b v t"]
    ) -> Float[Tensor, "b v n z y x"]:
        """Latents of the given frames; the codec is causal, so a view is encoded up to its last given frame only."""
        given = torch.where(reference[..., None, None, None], images, 1.0)
        views = []
        for view, needed in enumerate(latent_reference_mask(reference).any(0)):
            length = 1 + max(needed.nonzero().flatten().tolist(), default=0)
            latents = self.encode(given[:, [view], : 4 * length - 3])
            views.append(F.pad(latents, (0, 0, 0, 0, 0, 0, 0, len(needed) - length)))
        return torch.cat(views, 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b v n z y x"]) -> Float[Tensor, "b v t c h w"]:
        """The inverse of `encode`, images in [0, 1]."""
        return decode_grid(self.autoencoder, latents).float()

    @cached_property
    def fingerprint(self) -> str:
        """That of the autoencoder; read after its weights are loaded."""
        return autoencoder_fingerprint(self.autoencoder)

    def latents(self, batch: SceneBatch) -> Float[Tensor, "b v n z y x"]:
        """The stored latents of a batch that has them, else its images encoded.

        Raises:
            ValueError: The stored latents are another autoencoder's; names both.
        """
        if batch.latents is None:
            return self.encode(batch.images)
        if batch.autoencoder != self.fingerprint:
            raise ValueError(
                f"latents of source {batch.source[0]!r} were made by autoencoder {batch.autoencoder}, the model's is "
                f"{self.fingerprint}: make them with its class and weights (preparation.latents)"
            )
        return batch.latents.float()

    def images(self, batch: SceneBatch) -> Float[Tensor, "b v t c h w"]:
        """The images of a batch, or what its stored latents decode to."""
        return batch.images if batch.latents is None else self.decode(self.latents(batch))

    def training_step(self, batch: SceneBatch, index: int) -> Tensor:
        """The loss; its noise depends on the number of the batch and the rank alone, so a resumed run repeats it."""
        latents, mask = self.latents(batch), latent_reference_mask(batch.reference)
        accumulated = self.trainer.accumulate_grad_batches
        number = self.global_step * accumulated + index % accumulated
        generator = torch.Generator().manual_seed(2**20 * self.global_rank + number)  # its low 32 bits count
        sigmas = self.flow.draw_sigmas(len(latents), generator).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        text = batch.text
        if text is not None:
            text = text * (torch.rand(len(text), 1, 1, generator=generator) >= self.text_dropout).to(
                self.device
            )
        losses = self.flow.loss(self.network, latents, mask, text, sigmas, noise)
        self.log("train/loss", losses.mean(), prog_bar=True)
        for name, loss in zip(batch.source, losses.detach()):
            self.source_losses.setdefault(name, []).append(loss)
        return losses.mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Writes the mean loss of every source since the last time, beside `train/loss`.

        Not by `self.log`, which would write the value of an earlier step again for a source that did not come.
        """
        if (self.global_step + 1) % max(1, self.trainer.log_every_n_steps) == 0:
            losses = self.source_losses.items()
            means = {f"train/loss_{name}": torch.stack(found).mean().item() for name, found in losses}
            for logger in self.loggers:
                logger.log_metrics(means, self.global_step)
            self.source_losses.clear()

    def validation_step(self, batch: SceneBatch, index: int, dataloader_idx: int = 0) -> None:
        name, sample = f"grid_{batch.source[0]}", None
        if not self.fitting:
            _need_images(batch)
            sample = self.evaluation.add(self, batch)
        else:
            self._log_fixed_losses(batch)
        if name not in self.pictures:
            first = batch.sample(0)
            shown = replace(first, images=self.images(first))
            if sample is None:
                sample = self.generate(shown.images, shown.reference, shown.text, self.sample_steps)
            self.pictures[name] = self.evaluation.picture(shown, sample[:1])

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        self.pictures.clear()
        self.fixed_losses.clear()
        if not self.fitting:
            sources = [source.name for source in self.trainer.datamodule.val]
            self.evaluation.start(self, sources, self._training_images(self.evaluation.linear_batches))

    def _training_images(self, count: int) -> Iterator[Tensor]:
        """The images of the first training batches, for the linear predictor.

        Raises:
            ValueError: The data has no training sources.
        """
        if count:
            if not getattr(self.trainer.datamodule, "train", True):
                raise ValueError(
                    "the linear predictor, a baseline, needs training sources: give data.init_args.train, or "
                    "model.init_args.evaluation.baselines: false"
                )
            self.trainer.datamodule.setup("fit")
            for batch in islice(self.trainer.datamodule.train_dataloader(), count):
                yield self.images(batch.to(self.device))

    def on_validation_epoch_end(self) -> None:
        means = {name: torch.stack(losses).mean() for name, losses in self.fixed_losses.items()}
        if means:
            self.log_dict({f"val/loss_{name}": mean for name, mean in means.items()}, sync_dist=True)
            self.log("val/loss", torch.stack(list(means.values())).mean(), sync_dist=True, prog_bar=True)
        if not self.fitting:
            self.results = self.evaluation.compute()
            for source, methods in self.results["diffusion"].items():
                for name, value in methods["sample"].items():
                    self.log(f"val/{name}_{source}", value, rank_zero_only=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _log_fixed_losses(self, batch: SceneBatch) -> None:
        """The loss at fixed noise levels and fixed noise: comparable between steps and runs."""
        latents, mask = self.latents(batch), latent_reference_mask(batch.reference)
        noise = self.noise(latents.shape)
        total = latents.new_zeros(())
        for sigma in FIXED_SIGMAS:
            sigmas = latents.new_full((len(latents),), sigma)
            total += self.flow.loss(self.network, latents, mask, batch.text, sigmas, noise).mean() / len(
                FIXED_SIGMAS
            )
        self.fixed_losses.setdefault(batch.source[0], []).append(total.detach())

    def noise(self, shape: torch.Size) -> Tensor:
        """The same unit Gaussian noise for the same shape, run after run."""
        generator = torch.Generator().manual_seed(self.sample_seed)
        return torch.randn(shape, generator=generator).to(self.device)

    @torch.no_grad()
    def generate(
        self,
        images: Float[Tensor, "b v t c h w"],
        reference: Bool[Tensor, "b v t"],
        text: Float[Tensor, "b l d"] | None,
        steps: int,
    ) -> Float[Tensor, "b v t c h w"]:
        """Samples the grid from its reference frames; other frames of `images` are not looked at."""
        latents = deque(self.predict_latents(images, reference, text, steps), maxlen=1)[0]
        return self.complete(images, reference, latents)

    def predict_latents(
        self,
        images: Float[Tensor, "b v t c h w"],
        reference: Bool[Tensor, "b v t"],
        text: Float[Tensor, "b l d"] | None,
        steps: int,
    ) -> Iterator[Float[Tensor, "b v n z y x"]]:
        """The sampler's predictions of the clean grid: the mean from pure noise first, the sample last."""
        mask = latent_reference_mask(reference)
        latents = self.encode_references(images, reference)
        return self.flow.predictions(
            self.network, self.noise(latents.shape), latents, mask, text, steps, self.guidance
        )

    def complete(
        self,
        images: Float[Tensor, "b v t c h w"],
        reference: Bool[Tensor, "b v t"],
        latents: Float[Tensor, "b v n z y x"],
    ) -> Float[Tensor, "b v t c h w"]:
        """The given frames, and decoded latents for all others; views that are given whole are not decoded."""
        views = ~reference.all(2).all(0)
        if not views.any():
            return images
        grid = images.clone()
        grid[:, views] = self.decode(latents[:, views])
        return torch.where(reference[..., None, None, None], images, grid)

    def predict_step(self, batch: SceneBatch, index: int, dataloader_idx: int = 0) -> SceneBatch:
        """Returns the batch with every frame that was not given replaced by a generated one."""
        _need_images(batch)
        images = self.generate(batch.images, batch.reference, batch.text, self.sample_steps)
        return SceneBatch(
            images=images, cameras=batch.cameras, frame_times=batch.frame_times, reference=batch.reference,
            source=batch.source, keys=batch.keys, text=batch.text,
        )  # fmt: skip


def _need_images(batch: SceneBatch) -> None:
    """Raises ValueError if a batch has latents instead of images."""
    if batch.latents is not None:
        raise ValueError(
            f"source {batch.source[0]!r} gives latents, scores and predictions need pictures: set latents to false"
        )
