"""Watches every optimizer step: a training that has diverged stops, and the step's figures are logged."""

from __future__ import annotations

import lightning as L
from jaxtyping import Float
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.divergence import Divergence
from lightning_modules.loss_figures import LossFigures
from scene4d.distributed.sharding import total_norm


class StepWatch(L.Callback):
    """Stops a training on all ranks when a loss or the gradient is not finite, and logs how each step went.

    Logged are `train/learning_rate`, `train/gradient_norm` (before clipping) and the means of `figures` over all
    ranks, every `trainer.log_every_n_steps` steps; never if that is 0.

    Args:
        figures: What the training's steps find.
    """

    def __init__(self, figures: LossFigures) -> None:
        self._figures, self._divergence, self._scaled = figures, Divergence(), False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs, and learns whether a gradient scaler skips steps (16-mixed)."""
        plugin, self._divergence = trainer.precision_plugin, Divergence()
        self._scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Notes which samples come."""
        self._divergence.batch(batch)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Float[Tensor, ""]
    ) -> None:
        """Notes the loss."""
        self._divergence.loss(loss)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Judges the step before the optimizer takes it.

        Raises:
            ValueError: This step has diverged or, on a GPU, the one before; says what `Divergence` says.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = total_norm(gradients).to(pl_module.device)
        number = trainer.global_step + 1
        self._divergence.gradient(norm, number, self._scaled)
        # Lightning gives the trainer this attribute without declaring it
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and number % every == 0:
            figures = {
                "train/learning_rate": optimizer.param_groups[0]["lr"],
                "train/gradient_norm": norm.item(),
                **self._figures.take(),
            }
            for logger in trainer.loggers:
                logger.log_metrics(figures, trainer.global_step)
        elif not every:
            self._figures.forget()  # or it would keep them all

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits for the answer about the last step."""
        self.settle()

    def settle(self) -> None:
        """Waits for the answer that a GPU still owes; every rank must call it.

        Raises:
            ValueError: That step has diverged.
        """
        self._divergence.settle(self._scaled)
