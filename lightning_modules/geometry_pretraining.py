"""Stage 0 of the small preset: teaches the reconstruction network depth and cameras from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from einops import rearrange
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_modules.training import Training
from scene4d.geometry.cameras import normalise_scene, relative_to_first
from scene4d.geometry.pose_encoding import decode_pose
from scene4d.geometry.rotations import rotation_angle
from scene4d.geometry.supervision import (
    confidence_loss,
    depth_loss,
    masked_mean,
    match_loss,
    point_loss,
    pose_loss,
    true_matches,
)
from scene4d.networks.pretrained import load_weights
from scene4d.networks.vggt import ADDED_TO_VGGT, VGGT_UNUSED, Prediction
from scene4d.networks.vggt.view_matcher import CELL
from scene4d.types import Cameras, SceneBatch


class GeometryPretraining(L.LightningModule):
    """Trains depth, cameras, points and matching on scenes whose depth and cameras are known.

    The real sizes start from VGGT-1B and skip this stage. Every timestep of a batch is a static scene here.

    Args:
        network: Builds a `ReconstructionNetwork`.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning rate schedule, stepped every optimizer step; None = constant.
        initial_weights: File to start from; None = from scratch.
        camera_weight: Weight of the pose loss.
        depth_weight: Weight of the log-depth loss.
        gradient_weight: Weight of depth differences within the depth loss.
        confidence_weight: Weight of the confidence loss.
        point_weight: Weight of the point loss; needs a point head.
        match_weight: Weight of the matching loss; needs a view matcher.
    """

    network: Any  # built in configure_model

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        initial_weights: str | None = None,
        camera_weight: float = 5.0,
        depth_weight: float = 1.0,
        gradient_weight: float = 0.5,
        confidence_weight: float = 0.05,
        point_weight: float = 1.0,
        match_weight: float = 0.2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.make_network, self.make_optimizer, self.make_scheduler = network, optimizer, lr_scheduler
        self.initial_weights = initial_weights
        self.camera_weight, self.depth_weight, self.gradient_weight = (
            camera_weight,
            depth_weight,
            gradient_weight,
        )
        self.confidence_weight, self.point_weight, self.match_weight = (
            confidence_weight,
            point_weight,
            match_weight,
        )
        self.network = None

    def configure_model(self) -> None:
        """Builds the network once and loads its initial weights."""
        if self.network is None:
            self.network = self.make_network()
            if self.initial_weights is not None:
                load_weights(self.network, self.initial_weights, VGGT_UNUSED, ADDED_TO_VGGT)

    def configure_optimizers(self) -> Any:
        """Optimizer over all parameters that require a gradient."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def training_step(self, batch: SceneBatch, batch_index: int) -> Tensor:
        """One step on the input views."""
        images, depths, cameras = static_scenes(batch)
        prediction = self.network(images)
        generator = Training.step_generator(self, batch_index)  # type: ignore[arg-type]
        with torch.autocast(images.device.type, enabled=False):
            losses = self._losses(prediction, depths, cameras, generator)
        loss = sum(losses.values(), start=depths.new_zeros(()))
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log_dict(self._errors(prediction, depths, cameras, "train"), prog_bar=True)
        return loss

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Errors of rotations and depth on held-out scenes."""
        images, depths, cameras = static_scenes(batch)
        errors = self._errors(self.network(images), depths, cameras, "val")
        self.log_dict(errors, batch_size=len(images))

    def _losses(
        self, prediction: Prediction, depths: Tensor, cameras: Cameras, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Weighted losses by name."""
        height, width = depths.shape[-2:]
        losses = {
            "camera": self.camera_weight * pose_loss(prediction.poses, cameras, height, width),
            "depth": self.depth_weight * depth_loss(prediction.depths, depths, self.gradient_weight),
            "confidence": self.confidence_weight
            * confidence_loss(prediction.depth_confidence, prediction.depths, depths),
        }
        if prediction.points is not None:
            losses["points"] = self.point_weight * point_loss(prediction.points, depths, cameras)
        if prediction.match_features is not None:
            loss, accuracy = random_match_loss(
                prediction.match_features[:, 0], depths[:, :, 0], cameras, generator
            )
            losses["matching"] = self.match_weight * loss
            self.log("train/match_accuracy", accuracy)
        return losses

    @torch.no_grad()
    def _errors(
        self, prediction: Prediction, depths: Tensor, cameras: Cameras, stage: str
    ) -> dict[str, Tensor]:
        true, found = (x.c2w[:, 1:, :3, :3] for x in (cameras, prediction.cameras))
        identity = torch.eye(3, device=depths.device).expand_as(true)
        relative = (prediction.depths - depths).abs() / depths.clamp(min=1e-6)
        with torch.autocast(depths.device.type, enabled=False):
            first = decode_pose(prediction.poses[0].float(), *depths.shape[-2:])
            turned = relative_to_first(first.c2w)[:, 1:, :3, :3]
        return {
            f"{stage}/rotation_deg_first": rotation_angle(turned, true).mean(),
            f"{stage}/rotation_deg": rotation_angle(found, true).mean(),
            f"{stage}/rotation_deg_identity": rotation_angle(identity, true).mean(),
            f"{stage}/depth_abs_rel": masked_mean(relative, depths > 0),
        }


def random_match_loss(
    features: Float[Tensor, "n v p f"],
    depths: Float[Tensor, "n v h w"],
    cameras: Cameras,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Matching loss of every view with one other, as many views further on for all, drawn at random.

    All pairs at once cost more time and memory than the rest of a small network.
    """
    views = features.shape[1]
    if views == 1:
        return features.sum() * 0, features.new_zeros(())
    first = torch.arange(views, device=features.device)
    second = (first + int(torch.randint(1, views, (), generator=generator))) % views
    pixels, visible = true_matches(depths, cameras, CELL)  # n v p v2
    pixels, visible = (x[:, first, :, second].transpose(0, 1) for x in (pixels, visible))
    logits = features @ features[:, second].transpose(-1, -2)
    return match_loss(logits, pixels, visible, depths.shape[-1] // CELL, CELL)


def static_scenes(batch: SceneBatch) -> tuple[Tensor, Tensor, Cameras]:
    """Input views of a batch as normalised scenes of one timestep each.

    Returns:
        Images `n v 1 c h w`, depths `n v 1 h w`, cameras `n v`; n runs over scenes and timesteps.

    Raises:
        ValueError: A scene has no depth or cameras, or a timestep no depth; names their sources.
    """
    inputs = count_inputs(batch)
    timesteps = batch.images.shape[2]
    lacking = set(batch.source)
    if batch.depths is not None and batch.cameras is not None:
        known = (batch.depths[:, :inputs] > 0).any(1).flatten(2).any(-1).all(1)
        lacking = {source for source, has in zip(batch.source, known.tolist()) if not has}
    if lacking or batch.depths is None or batch.cameras is None:
        raise ValueError(f"geometry needs depth and cameras, sources {sorted(lacking)} lack them")
    images = rearrange(batch.images[:, :inputs], "b v t c h w -> (b t) v 1 c h w")
    depths = rearrange(batch.depths[:, :inputs], "b v t h w -> (b t) v 1 h w")
    cameras = batch.cameras[:, :inputs].apply(lambda x: x.repeat_interleave(timesteps, 0))
    with torch.autocast(images.device.type, enabled=False):
        depths, cameras, _ = normalise_scene(depths, cameras)
    return images, depths, cameras


def count_inputs(batch: SceneBatch) -> int:
    """How many views are inputs; they come first in the grid, targets after them."""
    given = batch.reference[:, :, 0].sum(1)
    if not bool((given == given[0]).all()) or int(given[0]) == 0:
        raise ValueError(f"every scene of a batch needs the same number of input views, got {given.tolist()}")
    return int(given[0])
