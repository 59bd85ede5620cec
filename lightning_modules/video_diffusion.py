"""Trains the 4D video diffusion model; with one view, the base video model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.training import Schedule, Training
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.checkpointing import Checkpointing
from scene4d.evaluation.fixed_losses import FixedLosses
from scene4d.evaluation.grids import GridEvaluation, grid_picture
from scene4d.evaluation.table import Evaluation
from scene4d.latent_grid import latent_reference_mask
from scene4d.networks.autoencoder import frozen_autoencoder
from scene4d.networks.contracts import Autoencoder, DiffusionNetwork
from scene4d.pipelines import Captions, GridGenerator, Sampling, TrainedOn
from scene4d.stages import Stage
from scene4d.types import SceneBatch


class VideoDiffusion(Training):
    """Trains the 4D video diffusion model: rectified flow on a view x time grid with reference frames (sec. 3.1).

    Training changes the parameters that `trainable` names: the self-attention, as in the paper, or everything for the
    base model. Validation inside `fit` logs the loss of each source at fixed noise levels and with fixed noise, and
    shows one sampled grid per source. `validate` and `test` score samples and baselines (see `evaluation`). `predict`
    returns the generated grid as a `SceneBatch`; its reference frames are the given ones.

    Args:
        network: Builds the network, for example `scene4d.networks.WanGridTransformer`.
        autoencoder: Builds the autoencoder, which stays frozen: `PatchAutoencoder` or `WanAutoencoder`.
        flow: The training objective and the sampler that belongs to it.
        optimizer: Builds the optimizer from the parameters that train.
        lr_scheduler: Builds the learning rate schedule from optimizer and number of steps; None keeps a constant rate.
        trainable: Regular expressions; parameters whose name matches one are trained, all others are frozen. None
            trains what the network's architecture says, the self-attention among it.
        initial_weights: Weight files that are loaded in this order, later ones over earlier ones. A file may hold a
            part, for example the fine-tuned self-attention on top of the base model. Together they must cover the
            network, unless it starts from weights of its own (`pretrained`).
        evaluation: Scores what `validate` and `test` generate; None is `GridEvaluation()`.
        sampling: Number of steps, guidance, and seed of the noise.
        captions: What embeds prompts, and what a sample without a caption gets.
        checkpointing: What the backward pass computes again to save memory, see `checkpoint_blocks`.
        compile: Whether to compile the network's blocks; this needs a C++ compiler on the CPU.
        trained_on: The training data of `initial_weights`; `predict` warns of inputs that differ. None says nothing.
        stages: Learning rates of a training in stages; configs give them once for data and model, as `stages`.
    """

    network: DiffusionNetwork
    autoencoder: Autoencoder
    generator: GridGenerator
    evaluation: Evaluation[GridGenerator]

    def __init__(
        self,
        network: Callable[[], nn.Module],
        autoencoder: Callable[[], nn.Module],
        flow: RectifiedFlow,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: Schedule | None = None,
        trainable: list[str] | None = None,
        initial_weights: list[str] = [],  # noqa: B006 - jsonargparse shows it as the default
        evaluation: GridEvaluation | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - shown by --help and never changed
        captions: Captions = Captions(),  # noqa: B008
        checkpointing: Checkpointing = "none",
        compile: bool = False,
        trained_on: TrainedOn | None = None,
        stages: list[Stage] = [],  # noqa: B006
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, initial_weights, trainable, stages)
        self.save_hyperparameters()
        self.make_autoencoder, self.flow = autoencoder, flow
        self.fixed_losses, self.evaluation = FixedLosses(), evaluation or GridEvaluation()
        self.sampling, self.captions, self.trained_on = sampling, captions, trained_on
        self.checkpointing, self.compile_network = checkpointing, compile

    def configure_model(self) -> None:
        """Builds both networks once, and the pipeline that generates grids with them.

        Raises:
            ValueError: What `Training.configure_model` and `frozen_autoencoder` raise.
        """
        if self.built:
            return
        super().configure_model()
        self.autoencoder = frozen_autoencoder(self.make_autoencoder, self.network.channels)
        if not self.autoencoder.has_weights:
            self.untrained += [f"autoencoder.{name}" for name in self.autoencoder.state_dict()]
        self.refuse_another_base()
        self.generator = GridGenerator(
            self.network, self.autoencoder, self.flow, self.sampling, self.captions, self.trained_on
        )

    def patterns(self, network: DiffusionNetwork) -> Sequence[str]:  # type: ignore[override]
        """Those of the config, or those of the network's architecture."""
        return network.default_trainable if self.trainable is None else self.trainable

    def on_after_batch_transfer(self, batch: SceneBatch, dataloader_idx: int) -> SceneBatch:
        """Gives every batch of `fit` its latents, once: the stored ones, if they are this autoencoder's, or encoded."""
        return replace(batch, latents=self.generator.latents(batch)) if self.fitting else batch

    def on_train_epoch_start(self) -> None:
        """Keeps the autoencoder in evaluation mode."""
        self.autoencoder.eval()

    def training_step(self, batch: SceneBatch, batch_index: int) -> Float[Tensor, ""]:
        """Returns the loss; its noise depends on the seed, the batch's number and the rank alone."""
        assert batch.latents is not None
        generator, latents = self.step_generator(batch_index, self.device), batch.latents
        sigmas = self.flow.draw_sigmas(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        text = self.captions.embed_for_training(batch, generator)
        mask = latent_reference_mask(batch.reference)
        losses = self.flow.loss(self.network, latents, mask, text, sigmas, noise)
        self.log_means({"loss": losses.mean()}, len(losses), shown=("loss",))
        self.figures.add_samples(batch.source, sigmas, losses)
        return losses.mean()

    def on_validation_epoch_start(self) -> None:
        """Forgets the scores and pictures of the last validation."""
        self.pictures.clear()
        (self.fixed_losses if self.fitting else self.evaluation).start(self.device)

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Scores samples; inside `fit`, logs losses and samples one scene of every source."""
        if self.fitting:
            self.fixed_losses.add(self.generator, batch)
            if f"grid_{batch.source[0]}" not in self.pictures:
                first = batch.sample(0)
                first = replace(first, images=self.generator.images(first))
                sample = self.generator(first).images
                self.pictures[f"grid_{batch.source[0]}"] = grid_picture(first, sample)
        else:
            self.evaluation.add(self.generator, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the losses by source and their mean; outside `fit`, puts all scores into `results`."""
        if self.fitting:
            rows = self.fixed_losses.compute()
            self.log_dict({f"val/{row.score}_{row.source}": row.value for row in rows}, sync_dist=True)
            means = [row.value for row in rows if row.score == "loss"]
            if means:
                self.log("val/loss", sum(means) / len(means), sync_dist=True, prog_bar=True)
            return
        rows = self.evaluation.compute()
        self.results = {"diffusion": rows}
        self.pictures = {f"grid_{name}": picture for name, picture in self.evaluation.pictures.items()}
        samples = {f"val/{row.score}_{row.source}": row.value for row in rows if row.method == "sample"}
        self.log_dict(samples, sync_dist=True)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> SceneBatch:
        """Returns the batch with every frame that is not a reference replaced by a generated one."""
        return self.generator(batch)
