"""What the losses of the reconstruction see of one step: Gaussians, rendered views, and the truth beside them."""

from __future__ import annotations

import torch

from scene4d.losses import Outcome
from scene4d.pipelines import Reconstructor
from scene4d.pipelines.reconstructor import Located
from scene4d.pipelines.supervised_views import CameraSource, place_views
from scene4d.types import Prediction, SceneBatch


def render_outcome(
    pipeline: Reconstructor,
    batch: SceneBatch,
    prediction: Prediction,
    cameras: CameraSource,
    generator: torch.Generator,
    rendered_inputs: int = 1,
    with_depth: bool = False,
    again: Located | None = None,
) -> Outcome:
    """Places Gaussians by the prediction for the input views and renders the supervised views.

    Args:
        pipeline: Places and renders.
        batch: Views with cameras, inputs first.
        prediction: The network's for the input views.
        cameras: Whose cameras place and render, see `place_views`.
        generator: Draws the input views that are rendered beside the targets.
        rendered_inputs: Their number.
        with_depth: Whether their depth is rendered, too.
        again: The second run that predicted cameras need, see `place_views`.
    """
    inputs = batch.inputs
    images = batch.images[:, :inputs]
    views = place_views(pipeline, batch, prediction, cameras, again)
    chosen = torch.randperm(inputs, generator=generator)[:rendered_inputs].tolist()
    shown = chosen + list(range(inputs, batch.images.shape[1]))
    size, background = images.shape[-2:], pipeline.background_of(images)
    rendered = pipeline.render(views.gaussians, views.seen_from[:, shown], size, background)
    depths, true_cameras, truth = views.depths[:, :inputs], views.cameras[:, :inputs], batch.images[:, shown]
    outcome = Outcome(prediction, depths, true_cameras, generator, views.gaussians, rendered, truth)
    if with_depth and chosen:
        outcome.rendered_depths = pipeline.render_depths(views.gaussians, views.seen_from[:, chosen], size)
        outcome.placed_depths = views.located.depths[:, chosen]
        outcome.placed_confidence = prediction.depth_confidence[:, chosen]
    return outcome
