"""From where a training renders: true cameras, true cameras in the predicted world, or predicted cameras."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.alignment import align_cameras
from scene4d.geometry.normalised_batches import depth_is_known, normalise_batch
from scene4d.pipelines.reconstructor import Located, Reconstructor
from scene4d.types import Cameras, Gaussians, Prediction, SceneBatch

CameraSource = Literal["given", "aligned", "predicted"]


class SupervisedViews(NamedTuple):
    """Gaussians of the input views, and what they are compared with.

    Attributes:
        depths: True planar z of all views in the normalised scene, 0 where unknown.
        cameras: True cameras of all views in the normalised scene, `b v`.
        located: What placed the Gaussians.
        gaussians: One for each pixel of the input views, `b t g`.
        seen_from: Cameras of all views in the world of the Gaussians, `b v`.
    """

    depths: Float[Tensor, "b v t h w"]
    cameras: Cameras
    located: Located
    gaussians: Gaussians
    seen_from: Cameras


def place_views(
    pipeline: Reconstructor,
    batch: SceneBatch,
    prediction: Prediction,
    source: CameraSource,
    again: Located | None = None,
) -> SupervisedViews:
    """Places Gaussians by the prediction for the input views, and finds from where all views see them.

    Cameras of the input views are found only where they are used: they place the Gaussians, or they give scenes
    without depth their unit of length. Gradients pass through the Gaussians alone.

    Args:
        pipeline: Matches, locates and places.
        batch: Views with cameras, inputs first.
        prediction: The network's for the input views.
        source: Whose cameras are used.
            given: True cameras of inputs and targets, in the normalised scene. The network has to predict depth in
                that scene's unit of length.
            aligned: Inputs by their predicted cameras; targets by their true cameras, brought into the predicted
                world by the similarity of the input cameras. Its scale is the ratio of the two medians of depth where
                depth is stored: with cameras that are some degrees off it is surer than their distances.
            predicted: Inputs and targets by predicted cameras, see `Reconstructor.targets_in`.
        again: The result of `Reconstructor.look_again`, which `predicted` needs.

    Raises:
        ValueError: See `normalise_batch`.
    """
    inputs, matches, found = batch.inputs, pipeline.match(prediction), None
    if source != "given" or not depth_is_known(batch):
        found = pipeline.find_cameras(prediction, matches)
    depths, cameras = normalise_batch(batch, found)
    located = pipeline.locate(prediction, cameras[:, :inputs] if source == "given" else found, matches)
    gaussians = pipeline.place(prediction, batch.images[:, :inputs], located)
    if source == "given":
        return SupervisedViews(depths, cameras, located, gaussians, cameras)
    if source == "aligned":
        with torch.no_grad():
            scale = _depth_scale(depths[:, :inputs], located.depths)
            targets = align_cameras(cameras[:, inputs:], cameras[:, :inputs], located.cameras, scale)
    else:
        assert again is not None, "predicted targets need the second run"
        targets = pipeline.targets_in(located.depths, gaussians, again)
    c2w, intrinsics = (
        torch.cat([getattr(x, k) for x in (located.cameras, targets)], 1) for k in ("c2w", "intrinsics")
    )
    return SupervisedViews(depths, cameras, located, gaussians, Cameras(c2w, intrinsics))


def _depth_scale(truth: Float[Tensor, "b v t h w"], found: Float[Tensor, "b v t h w"]) -> Float[Tensor, " b"]:
    """Length of the unit of true depth in that of found depth, by their medians; NaN without known depth."""
    known = truth > 0
    medians = (
        torch.where(known, x, torch.nan).flatten(1).nanmedian(1).values for x in (found.detach(), truth)
    )
    ours, theirs = medians
    return ours / theirs
