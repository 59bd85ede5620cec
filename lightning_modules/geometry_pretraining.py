"""Stage 0 of the small preset: teaches the reconstruction network depth and cameras from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.training import Schedule, Training
from scene4d.distributed.agreement import share_of_mean
from scene4d.evaluation.geometry_errors import ERRORS, geometry_errors
from scene4d.evaluation.table import SceneScores
from scene4d.geometry.normalised_batches import static_scenes
from scene4d.geometry.useful_scenes import UsefulScenes, placeholder
from scene4d.losses import Outcome, ReconstructionLoss, no_loss, weighted_losses
from scene4d.networks.contracts import SceneNetwork
from scene4d.types import SceneBatch


class GeometryPretraining(Training):
    """Trains depth, cameras, points and matching on scenes whose depth and cameras are known.

    The full-size model starts from VGGT-1B and skips this stage. Every timestep of a batch counts as a static scene.
    Scenes that no loss can use are left out and named, and the loss is the mean over the others (see `UsefulScenes`).

    Args:
        network: Builds a `ReconstructionNetwork`.
        losses: The losses whose weighted sum is trained on, for example `scene4d.losses.DepthLoss`.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds the learning rate schedule from optimizer and number of steps; None keeps a constant rate.
        initial_weights: Weight files that are loaded in this order, later ones over earlier ones. Without files,
            training starts from random values.
    """

    network: SceneNetwork
    harmless = ("aggregator.temporal", "gaussian_head.")  # they take no part

    def __init__(
        self,
        network: Callable[[], nn.Module],
        losses: list[ReconstructionLoss],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: Schedule | None = None,
        initial_weights: list[str] = [],  # noqa: B006 - shown by --help and never changed
    ) -> None:
        super().__init__(network, optimizer, lr_scheduler, initial_weights, trainable=[".*"])
        self.save_hyperparameters()
        self.losses = nn.ModuleList(losses)
        self.useful = UsefulScenes(depth=True)
        self.scores = SceneScores(["network"], ERRORS)

    def training_step(self, batch: SceneBatch, batch_index: int) -> Float[Tensor, ""]:
        """Compares what the network predicts for the input views with the truth."""
        useful = self.useful.of(batch)
        if self.useful.left_out:
            self.figures.set_total("train/useless_scenes", self.useful.left_out.total())
        share = share_of_mean(0 if useful is None else len(useful.images), batch.images.device)
        if useful is None:
            return no_loss(self.network(placeholder(batch).images[:, : batch.inputs, :1]))
        images, depths, cameras = static_scenes(useful)
        prediction = self.network(images)
        outcome = Outcome(prediction, depths, cameras, self.step_generator(batch_index))
        with torch.autocast(images.device.type, enabled=False):
            losses = weighted_losses(self.losses, outcome)
        loss = sum(losses.values(), start=depths.new_zeros(()))
        errors = geometry_errors(prediction, depths, cameras)
        found = {"loss": loss, **losses, **outcome.figures, **errors}
        self.log_means(found, len(useful.images), shown=("loss", *outcome.figures, *errors))
        return loss * share

    def on_validation_epoch_start(self) -> None:
        """Forgets all errors."""
        self.scores.reset()

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Measures the errors of rotations and depth of every held-out scene."""
        for index, (source, key) in enumerate(zip(batch.source, batch.keys)):
            images, depths, cameras = static_scenes(batch.sample(index))
            errors = geometry_errors(self.network(images), depths, cameras)
            values = {name: value.item() for name, value in errors.items()}
            self.scores.update(
                source, key, "network", values, failed=not all(map(math.isfinite, values.values()))
            )

    def on_validation_epoch_end(self) -> None:
        """Puts the errors into `results` and logs them by source; a scene that several ranks have counts once."""
        rows = self.scores.compute()
        self.results = {"geometry": rows}
        self.log_dict({f"val/{row.score}_{row.source}": row.value for row in rows}, sync_dist=True)
