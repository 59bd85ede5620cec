"""Scores samples of the diffusion model beside everything that must be beaten, source by source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.evaluation.baselines import (
    LinearPredictor,
    blend,
    blurred_copy,
    copy_fixed_view,
    copy_freeze_time,
)
from scene4d.losses import PerceptualLoss
from scene4d.evaluation.scores import ScoreTable, score_grid
from scene4d.types import SceneBatch
from scene4d.visualization import comparison_sheet

if TYPE_CHECKING:
    from lightning_modules.video_diffusion import VideoDiffusion

GENERATED = ("sample", "one_step", "sample_static_reference", "sample_other_reference")
BASELINES = ("copy_freeze_time", "copy_fixed_view", "blend", "blurred_copy", "linear", "autoencoder")


class GridEvaluation:
    """Every held-out grid is generated from its fixed-view and freeze-time videos and scored on the rest.

    Two of the methods test whether motion is transferred at all: `sample_static_reference` samples with the
    fixed-view video standing still, `sample_other_reference` with another scene's. Both are scored against the
    true grid and must lose. A batch of one scene has no other scene and leaves the latter out.

    Args:
        white_background: Sources whose silhouettes are scored.
        linear_batches: Training batches that the linear predictor is fitted on.
        baselines: Whether to score what was not trained, too: the same for all weights of one autoencoder.
    """

    def __init__(
        self,
        white_background: list[str] = ["objects"],  # noqa: B006
        linear_batches: int = 3,
        baselines: bool = True,
    ) -> None:
        self.white_background, self.baselines = white_background, baselines
        self.linear_batches = linear_batches if baselines else 0
        self.table: Any = None  # ScoreTable, PerceptualLoss and LinearPredictor, from `start` on
        self.perceptual: Any = None
        self.linear: Any = None

    def start(
        self, module: VideoDiffusion, sources: Sequence[str], training_images: Iterable[Tensor]
    ) -> None:
        """Empties the table and fits the linear predictor.

        Args:
            module: Generates.
            sources: All that are scored, on any rank: the rows of the table.
            training_images: What the linear predictor is fitted on.
        """
        self.table = ScoreTable(sources, GENERATED + BASELINES).to(module.device)
        self.perceptual = self.perceptual or PerceptualLoss().to(module.device)
        if self.baselines:
            self.linear = LinearPredictor(module.encode, module.decode).fit(training_images)

    def add(self, module: VideoDiffusion, batch: SceneBatch) -> Float[Tensor, "b v t c h w"]:
        """Generates and scores one batch of a single source; returns the samples."""
        source = batch.source[0]
        reference = torch.zeros_like(batch.reference)
        reference[:, 0], reference[:, :, 0] = True, True
        methods = self.generated(module, batch.images, reference, batch.text)
        if self.baselines:
            methods |= self.copied(module, batch.images)
        for method, images in methods.items():
            images = torch.where(reference[..., None, None, None], batch.images, images)
            for ours, truth, mask in zip(images, batch.images, reference):
                white = source in self.white_background
                self.table.update(source, method, score_grid(ours, truth, mask, self.perceptual, white))
        return methods["sample"]

    def generated(
        self, module: VideoDiffusion, images: Tensor, reference: Tensor, text: Tensor | None
    ) -> dict[str, Float[Tensor, "b v t c h w"]]:
        """Grids of the network by method."""
        steps = module.sample_steps
        still, other = images.clone(), images.clone()
        still[:, 0] = images[:, 0, :1]
        other[:, 0, 1:] = images.roll(1, 0)[:, 0, 1:]
        moved = {"sample_static_reference": still, "sample_other_reference": other}
        if len(images) == 1:  # there is no other scene
            del moved["sample_other_reference"]
        path = list(module.predict_latents(images, reference, text, steps))
        grids = {"one_step": module.complete(images, reference, path[0])}
        grids["sample"] = module.complete(images, reference, path[-1])
        for method, given in moved.items():
            same = torch.equal(given, images)  # a still scene: the same noise gives the same sample
            grids[method] = grids["sample"] if same else module.generate(given, reference, text, steps)
        return grids

    def copied(
        self, module: VideoDiffusion, images: Float[Tensor, "b v t c h w"]
    ) -> dict[str, Float[Tensor, "b v t c h w"]]:
        """Grids of the baselines by method."""
        return {
            "copy_freeze_time": copy_freeze_time(images),
            "copy_fixed_view": copy_fixed_view(images),
            "blend": blend(images),
            "blurred_copy": blurred_copy(images),
            "linear": self.linear.predict(images),
            "autoencoder": module.decode(module.encode(images)),
        }

    def compute(self) -> dict:
        """The block of `metrics.json`: {"diffusion": {source: {"scenes": n, method: {score: mean}}}}."""
        return {"diffusion": self.table.compute()}

    def picture(
        self, batch: SceneBatch, generated: Float[Tensor, "1 v t c h w"], frames: int = 5
    ) -> Float[Tensor, "c h w"]:
        """Contact sheet of one scene: reference, generated, truth, copy; a few frames of every view."""
        images, reference = batch.images, batch.reference
        given = torch.where(reference[..., None, None, None], images, 0.5)
        chosen = torch.linspace(0, images.shape[2] - 1, min(frames, images.shape[2])).round().long()
        rows = {"reference": given, "generated": generated, "truth": images, "copy": copy_freeze_time(images)}
        return comparison_sheet({name: grid[0][:, chosen].float().cpu() for name, grid in rows.items()})
