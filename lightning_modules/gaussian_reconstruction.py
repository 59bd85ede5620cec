"""Stage 2 of the pipeline: a grid of frames to cameras and one set of 3D Gaussians a timestep (sec. 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from einops import rearrange
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_modules.geometry_pretraining import count_inputs, random_match_loss
from lightning_modules.novel_view_evaluation import NovelViewEvaluation
from lightning_modules.training import Training
from scene4d.geometry.cameras import normalise_scene
from scene4d.geometry.supervision import depth_loss, masked_mean, pose_loss
from scene4d.losses import PerceptualLoss
from scene4d.networks.pretrained import load_weights
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.vggt import ADDED_TO_VGGT, VGGT_UNUSED, Prediction, gaussians_from_maps
from scene4d.networks.vggt.match_refinement import refine_with_matches
from scene4d.rendering.render import render_gaussians
from scene4d.types import Cameras, Gaussians, SceneBatch


@dataclass
class Reconstruction:
    """A 4D scene, in the world of its first camera.

    Attributes:
        cameras: Of the input views, `b v`; predicted unless they were given.
        gaussians: One set a timestep, `b t g`.
        frame_times: Scene time of every set, seconds.
        keys: Names of the scenes.
        background: Colour behind the Gaussians, `b 3`.
        prediction: What the network said.
        depths: Planar z that placed the Gaussians: predicted, or refined by matches; `b v t h w`.
    """

    cameras: Cameras
    gaussians: Gaussians
    frame_times: Tensor | None
    keys: Sequence[str]
    background: Any = None
    prediction: Any = None  # a Prediction; these two are left out of what `predict` returns
    depths: Any = None


class GaussianReconstruction(L.LightningModule):
    """Trains the Gaussian head (static stage), then temporal attention with it (dynamic stage).

    A stage is a config: which parameters are trained, from which weights, on which data. Input views come
    first in the grid, target views after them; predicted Gaussians are rendered from the true cameras of the
    targets in the normalised scene (first camera = identity, mean distance of the input points = 1). Scenes
    without depth train too: their cameras are brought to the unit of length of the predicted ones.

    Args:
        network: Builds a `ReconstructionNetwork` with a Gaussian head.
        optimizer: Makes the optimizer from the trained parameters.
        lr_scheduler: Makes the learning rate schedule, stepped every optimizer step; None = constant.
        initial_weights: Files to start from, later ones completing earlier ones (for example VGGT-1B or the
            small geometry weights, then a Gaussian head); null = from scratch.
        trainable: Regular expressions; parameters whose name matches one are trained, all others frozen.
        use_given_cameras: Place the Gaussians by the true input cameras in training, else by predicted ones.
        mse_weight: Weight of the mean squared error of rendered views.
        perceptual_weight: Weight of their perceptual distance, see `scene4d.losses.PerceptualLoss`.
        depth_weight: Weight of the depth loss; only useful when the depth head is trained.
        camera_weight: Weight of the pose loss; only useful when the camera head is trained.
        background_weight: Weight of the loss that makes Gaussians at unknown depth (the background) vanish.
        rendered_inputs: How many input views are rendered and supervised beside the targets.
        pixel_scale: Size of an untrained Gaussian, pixels; see `gaussians_from_maps`.
        opacity_shift: Opacity logit of an untrained Gaussian.
        background: Colour behind the Gaussians, in [0, 1]; None = the median colour of the outermost pixels of
            the inputs: white around an object on white, the walls' colour in a room.
        refine: Make depth (and cameras, unless they are given) agree with the matches between views, see
            `refine_with_matches`; needs a view matcher.
        match_weight: Weight of the matching loss; only useful when the view matcher is trained.
    """

    network: Any  # built in configure_model
    perceptual: Any

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        initial_weights: list[str] | None = None,
        trainable: list[str] = ["gaussian_head"],  # noqa: B006 - shown by --help and never changed
        use_given_cameras: bool = True,
        mse_weight: float = 1.0,
        perceptual_weight: float = 0.5,
        depth_weight: float = 0.0,
        camera_weight: float = 0.0,
        background_weight: float = 0.0,
        rendered_inputs: int = 1,
        pixel_scale: float = 0.3,
        opacity_shift: float = 2.0,
        background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
        refine: bool = False,
        match_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.make_network, self.make_optimizer, self.make_scheduler = network, optimizer, lr_scheduler
        self.initial_weights, self.trainable = initial_weights or [], trainable
        self.use_given_cameras, self.rendered_inputs = use_given_cameras, rendered_inputs
        self.mse_weight, self.perceptual_weight = mse_weight, perceptual_weight
        self.depth_weight, self.camera_weight = depth_weight, camera_weight
        self.background_weight, self.background = background_weight, background
        self.refine, self.match_weight = refine, match_weight
        self.pixel_scale, self.opacity_shift = pixel_scale, opacity_shift
        self.network = self.perceptual = None
        self.untrained: list[str] = []
        self.results: dict[str, Any] = {}
        self.pictures: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Builds the network once, loads its initial weights and freezes what is not trained.

        Raises:
            ValueError: Weights are missing or of another architecture, or a pattern matches nothing.
        """
        if self.network is not None:
            return
        self.network = self.make_network()
        self.perceptual = PerceptualLoss()
        self.untrained = list(self.network.state_dict())
        if self.initial_weights:
            self.untrained = load_weights(self.network, self.initial_weights, VGGT_UNUSED, ADDED_TO_VGGT)
        trainable_parameters(self.network, self.trainable)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is loaded after `configure_model` and holds every weight."""
        self.untrained = []

    def on_train_start(self) -> None:
        """Says what starts untrained."""
        if self._untrained_parts():
            rank_zero_warn(f"no weights were given for {self._untrained_parts()}: it starts from scratch")
        self.untrained = []

    def on_validation_start(self) -> None:
        """Refuses to judge or use what was never trained.

        Raises:
            ValueError: Weights are missing, outside `fit`; says of what.
        """
        if self.trainer.state.fn != TrainerFn.FITTING and self._untrained_parts():
            raise ValueError(
                f"no weights were given for {self._untrained_parts()}; add the file that has them to "
                f"initial_weights={self.initial_weights} or give --ckpt_path"
            )

    on_test_start = on_predict_start = on_validation_start

    def _untrained_parts(self) -> str:
        """Parts whose output no training has shaped, counted; temporal attention starts as the identity."""
        harmless = ("aggregator.temporal",) + (() if self.refine else ("aggregator.matcher.",))
        counts = Counter(name.split(".")[0] for name in self.untrained if not name.startswith(harmless))
        return ", ".join(f"{part} ({count} tensors)" for part, count in counts.items())

    def configure_optimizers(self) -> Any:
        """Optimizer over the trained parameters."""
        optimizer = self.make_optimizer([p for p in self.network.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def reconstruct(self, images: Tensor, cameras: Cameras | None = None) -> Reconstruction:
        """Input views to cameras and Gaussians.

        Args:
            images: `b v t c h w` in [0, 1].
            cameras: Known cameras `b v` of these views in the normalised scene; None = predicted.
        """
        return self.place(self.network(images), images, cameras)

    def place(self, prediction: Prediction, images: Tensor, cameras: Cameras | None = None) -> Reconstruction:
        """What the network said to cameras and Gaussians; arguments as of `reconstruct`."""
        assert prediction.gaussians is not None, "the network has no Gaussian head"
        with torch.autocast(images.device.type, enabled=False):
            depths = prediction.depths.float()
            if self.refine:
                cameras, refined = refine_with_matches(prediction, cameras)
                depths = depths * (refined / depths).detach()
            cameras = prediction.cameras if cameras is None else cameras
            gaussians = gaussians_from_maps(
                prediction.gaussians, images, depths, cameras, self.pixel_scale, self.opacity_shift
            )
        background = self.background_of(images)
        return Reconstruction(cameras, gaussians, None, (), background, prediction, depths)

    def background_of(self, images: Tensor) -> Tensor:
        """Colour behind the Gaussians of every scene, `b 3`."""
        if self.background is not None:
            return images.new_tensor(self.background).expand(len(images), 3)
        border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
        return rearrange(border, "b v t c n -> b (v t n) c").median(1).values

    def render(
        self, gaussians: Gaussians, cameras: Cameras, size: Sequence[int], background: Tensor
    ) -> Tensor:
        """Renders Gaussians `b t g` from the same cameras `b v` at every timestep: `b v t c h w`."""
        per_time = Cameras(cameras.c2w[:, None], cameras.intrinsics[:, None])
        images, _, alphas = render_gaussians(
            gaussians, per_time, size[0], size[1], background=(0.0, 0.0, 0.0)
        )
        behind = rearrange(background, "b c -> b 1 1 c 1 1")
        images = images + (1 - alphas[:, :, :, None]) * behind
        return rearrange(images, "b t v c h w -> b v t c h w")

    def training_step(self, batch: SceneBatch, batch_index: int) -> Tensor:
        """Predicts from the input views, renders and compares target views (and some inputs)."""
        inputs = count_inputs(batch)
        images = batch.images[:, :inputs]
        prediction = self.network(images)
        depths, cameras = self._normalised_truth(batch, inputs, prediction)
        given = cameras[:, :inputs] if self.use_given_cameras else None
        result = self.place(prediction, images, given)
        generator = Training.step_generator(self, batch_index)  # type: ignore[arg-type]
        with torch.autocast(images.device.type, enabled=False):
            losses = self._image_losses(result, batch.images, cameras, inputs, generator)
            losses |= self._geometry_losses(result, depths[:, :inputs], cameras[:, :inputs], generator)
        loss = sum(losses.values(), start=images.new_zeros(()))
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return loss

    def _normalised_truth(
        self, batch: SceneBatch, inputs: int, prediction: Prediction
    ) -> tuple[Tensor, Cameras]:
        """Depth (0 = unknown) and cameras of all views; world and unit of length are those of the inputs.

        Raises:
            ValueError: The batch has no cameras, or a scene no unit of length; names its sources.
        """
        sources = sorted(set(batch.source))
        if batch.cameras is None:
            raise ValueError(f"training needs cameras, sources {sources} lack them")
        with torch.autocast(batch.images.device.type, enabled=False), torch.no_grad():
            depths = torch.zeros_like(batch.images[:, :, :, 0]) if batch.depths is None else batch.depths
            known = bool((depths[:, :inputs] > 0).flatten(1).any(1).all())
            predicted = None if known else self.place(prediction, batch.images[:, :inputs]).cameras
            try:
                depths, cameras, _ = normalise_scene(depths, batch.cameras, inputs, predicted)
            except ValueError as error:
                raise ValueError(f"sources {sources}: {error}") from error
        return depths, cameras

    def _image_losses(
        self,
        result: Reconstruction,
        images: Tensor,
        cameras: Cameras,
        inputs: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        chosen = torch.randperm(inputs, generator=generator)[: self.rendered_inputs].tolist()
        views = chosen + list(range(inputs, images.shape[1]))
        truth = images[:, views]
        rendered = self.render(result.gaussians, cameras[:, views], images.shape[-2:], result.background)
        mse = (rendered - truth).square().mean()
        self.log("train/psnr", -10 * mse.detach().clamp(min=1e-8).log10(), prog_bar=True)
        losses = {"mse": self.mse_weight * mse}
        if self.perceptual_weight > 0:
            distance = self.perceptual(rendered.flatten(0, 2).clamp(0, 1), truth.flatten(0, 2))
            losses["perceptual"] = self.perceptual_weight * distance.mean()
        return losses

    def _geometry_losses(
        self, result: Reconstruction, depths: Tensor, cameras: Cameras, generator: torch.Generator
    ) -> dict[str, Tensor]:
        prediction, (height, width) = result.prediction, depths.shape[-2:]
        losses = {}
        if self.depth_weight > 0:
            losses["depth"] = self.depth_weight * depth_loss(prediction.depths, depths)
        if self.camera_weight > 0:
            losses["camera"] = self.camera_weight * pose_loss(prediction.poses, cameras, height, width)
        if self.match_weight > 0:
            assert prediction.match_features is not None, "matching is trained without a matcher"
            loss, accuracy = random_match_loss(
                prediction.match_features[:, 0], depths[:, :, 0], cameras, generator
            )
            losses["matching"] = self.match_weight * loss
            self.log("train/match_accuracy", accuracy)
        if self.background_weight > 0:
            stored = (depths > 0).flatten(3).any(-1)[..., None, None]  # else unknown, not empty
            empty = rearrange(stored & (depths <= 0), "b v t h w -> b t (v h w)")
            losses["background"] = self.background_weight * masked_mean(result.gaussians.opacities, empty)
        return losses

    def on_validation_epoch_start(self) -> None:
        """Empties the table of scores."""
        self._evaluation = NovelViewEvaluation(self, self.perceptual)

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Scores novel views of every scene, see `NovelViewEvaluation`."""
        self._evaluation.add(batch)

    def on_validation_epoch_end(self) -> None:
        """Sets `results["reconstruction"]`, the block of metrics.json, and logs its scores."""
        block = self._evaluation.results()
        self.results = {"reconstruction": block}
        self.pictures = self._evaluation.pictures
        for name, value in block.items():
            scores = value if isinstance(value, dict) else {"": value}
            self.log_dict({f"val/{name}{'_' * bool(k)}{k}": float(v) for k, v in scores.items()})
        if "given_cameras" in block:
            self.log("val/psnr", block["given_cameras"]["psnr"], prog_bar=True, logger=False)

    def test_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """As `validation_step`."""
        self._evaluation.add(batch)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> Reconstruction:
        """Turns a whole grid (every view an input, cameras not needed) into a 4D scene."""
        result = self.reconstruct(batch.images)
        return Reconstruction(
            result.cameras, result.gaussians, batch.frame_times, batch.keys, result.background
        )
