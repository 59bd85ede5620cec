"""Trains the network that turns a grid of frames into cameras and Gaussians (sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from math import fsum

import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.supervision import render_outcome
from lightning_modules.teacher import Teacher
from lightning_modules.training import Schedule, Training
from scene4d.distributed.agreement import share_of_mean
from scene4d.distributed.checkpointing import Checkpointing
from scene4d.evaluation.novel_views import NovelViews
from scene4d.evaluation.table import Evaluation
from scene4d.gaussians.pruning import Pruning
from scene4d.geometry.useful_scenes import UsefulScenes, placeholder
from scene4d.losses import ReconstructionLoss, no_loss, weighted_losses
from scene4d.networks.contracts import SceneNetwork
from scene4d.pipelines import Reconstructor, TrainedOn
from scene4d.pipelines.known_cameras import Known, known_part
from scene4d.pipelines.supervised_views import CameraSource
from scene4d.types import Reconstruction, SceneBatch

LOGGED = ("pose_free", "given_cameras")


class GaussianReconstruction(Training):
    """Trains the reconstructor: first its Gaussian head (static stage), then temporal attention, too (dynamic stage).

    A stage is a config, which says what is trained, from which weights, and on which data. Input views come first in
    the grid and target views after them. The predicted Gaussians are rendered from the cameras of the targets and
    compared with the images. Losses of geometry compare with the truth in the normalised scene (the first camera is
    the identity, and the mean distance of the input points is 1). Scenes without depth train too: their cameras are
    scaled to the unit of length of the predicted ones. Scenes that no loss can use are left out and named, and the
    loss is the mean over the others (see `UsefulScenes`).

    Args:
        network: Builds a `ReconstructionNetwork` with a Gaussian head.
        losses: The losses whose weighted sum is trained on, for example `scene4d.losses.ImageLoss`.
        optimizer: Builds the optimizer from the parameters that train.
        lr_scheduler: Builds the learning rate schedule from optimizer and number of steps; None keeps a constant rate.
        initial_weights: Weight files that are loaded in this order, later ones over earlier ones, for example VGGT-1B
            and then a Gaussian head. Without files, training starts from random values.
        trainable: Regular expressions; parameters whose name matches one are trained, all others are frozen.
        cameras: The cameras that place the Gaussians and render the targets; all need true cameras in the data.
            "given": the true ones, for a network that learns their unit of length, too.
            "aligned": inputs by their predicted cameras, targets by their true ones, brought into the predicted world
            by the similarity of the input cameras. It is for a network that is frozen and has its own world.
            "predicted": inputs and targets by predicted cameras, as the paper scores them; the network runs a second
            time, without gradients, on the first input and the targets.
        rendered_inputs: How many input views are rendered and supervised beside the targets.
        pixel_scale: Standard deviation of an untrained Gaussian, in pixels; see `gaussians_from_maps`.
        opacity_shift: Logit of the opacity of an untrained Gaussian.
        background: Colour behind the Gaussians, in [0, 1]. None takes the median colour of the outermost pixels of
            the inputs: white around an object on white, the colour of the walls in a room.
        refine: Whether depth, and cameras that are not given, are made to agree with the matches between views.
            The network must have a view matcher then.
        evaluation: Judges held-out scenes in `validate`, `test` and during training; None is `NovelViews()`.
        known: What `predict` uses of the cameras in its data. Without any it needs nothing but images.
        pruning: What `predict` and `validate` leave out and merge; None leaves scenes whole, see `Pruning`.
        trained_on: The training data of `initial_weights`; `predict` warns of inputs that differ. None says nothing.
        checkpointing: What the backward pass computes again to save memory, see `checkpoint_blocks`.
        compile: Whether to compile the network's blocks; this needs a C++ compiler on the CPU.

    Raises:
        ValueError: `rendered_inputs` is negative.
    """

    network: SceneNetwork
    reconstructor: Reconstructor
    evaluation: Evaluation[Reconstructor]

    def __init__(
        self,
        network: Callable[[], nn.Module],
        losses: list[ReconstructionLoss],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: Schedule | None = None,
        initial_weights: list[str] = [],  # noqa: B006 - shown by --help and never changed
        trainable: list[str] = ["gaussian_head"],  # noqa: B006
        cameras: CameraSource = "given",
        rendered_inputs: int = 1,
        pixel_scale: float = 0.3,
        opacity_shift: float = 2.0,
        background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
        refine: bool = False,
        evaluation: NovelViews | None = None,
        known: Known = "nothing",
        pruning: Pruning | None = None,
        trained_on: TrainedOn | None = None,
        checkpointing: Checkpointing = "none",
        compile: bool = False,
    ) -> None:
        if rendered_inputs < 0:
            raise ValueError(f"rendered_inputs must be at least 0, got {rendered_inputs}")
        super().__init__(network, optimizer, lr_scheduler, initial_weights, trainable)
        self.save_hyperparameters()
        self.losses, self.evaluation = nn.ModuleList(losses), evaluation or NovelViews()
        self.cameras, self.known, self.rendered_inputs = cameras, known, rendered_inputs
        self.pixel_scale, self.opacity_shift = pixel_scale, opacity_shift
        self.background, self.refine, self.trained_on, self.pruning = background, refine, trained_on, pruning
        self.checkpointing, self.compile_network = checkpointing, compile
        self.useful = UsefulScenes()
        self.teacher: Teacher | None = None
        # untrained temporal attention is the identity, and an untrained matcher is fine where nothing uses it
        self.harmless = ("aggregator.temporal",) + (() if refine else ("aggregator.matcher.",))

    def configure_model(self) -> None:
        """Builds the network and the pipeline around it, once."""
        super().configure_model()
        self.reconstructor = Reconstructor(
            self.network, self.pixel_scale, self.opacity_shift, self.background, self.refine, self.trained_on,
            self.pruning,
        )  # fmt: skip
        if self.teacher is None and any(loss.needs_teacher for loss in self.losses):
            self.teacher = Teacher(self.network)

    def training_step(self, batch: SceneBatch, batch_index: int) -> Float[Tensor, ""]:
        """Predicts from the input views, renders target views and some inputs, and compares them."""
        useful = self.useful.of(batch)
        if self.useful.left_out:
            self.figures.set_total("train/useless_scenes", self.useful.left_out.total())
        share = share_of_mean(0 if useful is None else len(useful.images), batch.images.device)
        batch = placeholder(batch) if useful is None else useful
        again = None
        if (
            self.cameras == "predicted"
        ):  # before the run that is trained, which holds memory for its gradients
            again = self.reconstructor.look_again(batch.images, batch.inputs)
        prediction = self.network(batch.images[:, : batch.inputs])
        if useful is None:
            return no_loss(prediction)
        taught = None if self.teacher is None else self.teacher(batch.images[:, : batch.inputs])
        with torch.autocast(batch.images.device.type, enabled=False):
            outcome = render_outcome(
                self.reconstructor, batch, prediction, self.cameras, self.step_generator(batch_index),
                self.rendered_inputs, any(loss.needs_depth for loss in self.losses), again,
            )  # fmt: skip
            outcome.teacher = taught
            losses = weighted_losses(self.losses, outcome)
        loss = sum(losses.values(), start=batch.images.new_zeros(()))
        found = {"loss": loss, **losses, **outcome.figures}
        self.log_means(found, len(batch.images), shown=("loss", *outcome.figures))
        return loss * share

    def on_validation_epoch_start(self) -> None:
        """Forgets all scores."""
        self.evaluation.start(self.device)

    def validation_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Scores every scene of the batch."""
        self.evaluation.add(self.reconstructor, batch)

    def on_validation_epoch_end(self) -> None:
        """Sets `results["reconstruction"]`, the rows of the evaluation, and logs those of the trained methods."""
        rows = self.evaluation.compute()
        self.results, self.pictures = {"reconstruction": rows}, self.evaluation.pictures
        shown = {f"val/{x.method}_{x.score}_{x.source}": x.value for x in rows if x.method in LOGGED}
        self.log_dict(shown, sync_dist=True)
        psnr = [x for x in rows if (x.method, x.score) == ("given_cameras", "psnr")]
        if psnr:
            mean = fsum(x.value * x.count for x in psnr) / sum(x.count for x in psnr)
            self.log("val/psnr", mean, prog_bar=True, logger=False, sync_dist=True)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: SceneBatch, batch_index: int, dataloader_idx: int = 0) -> Reconstruction:
        """Turns a whole grid into a 4D scene; every view is an input, and cameras are used where `known` says so."""
        return self.reconstructor(batch, *known_part(batch, self.known))
