"""How reconstructions are judged: novel views of held-out scenes beside what needs no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from scene4d.evaluation.baselines import blurred_mean, copy_nearest
from scene4d.evaluation.scores import VIEW_SCORES, ScoreTable, depth_abs_rel, rotation_error, score_views
from scene4d.geometry.cameras import normalise_scene, scale_cameras
from scene4d.networks.vggt import gaussians_from_maps
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS
from scene4d.types import Cameras, SceneBatch
from scene4d.visualization import grid_sheet

if TYPE_CHECKING:
    from lightning_modules.gaussian_reconstruction import GaussianReconstruction, Reconstruction

METHODS = ("pose_free", "given_cameras", "copy_nearest", "blurred_mean", "true_depth")
ERRORS = ("rotation_deg", "rotation_deg_identity", "depth_abs_rel")
ALL = "all"
PICTURES = 4  # scenes a source
BOUND_PIXEL_SCALE = 0.1  # the rasterizer's own blur of 0.55 pixels is there already; 0.3 costs over 1 dB


class NovelViewEvaluation:
    """Collects scores of novel views over scenes; inputs come first in the grid, targets after them.

    Methods:
        pose_free: The paper's protocol, see `pose_free_cameras`. Nothing but images is used.
        given_cameras: True input and target cameras; their unit of length is that of the normalised scene,
        see `normalise_scene`.
        copy_nearest, blurred_mean: The nearest input view; the mean of the two nearest, blurred.
        true_depth: True depth and cameras with untrained Gaussians, the bound of the representation.
        Only at timesteps whose depth is stored.

    Args:
        module: Reconstructs and renders.
        perceptual: Distance of images `n 3 h w`.
    """

    def __init__(
        self, module: GaussianReconstruction, perceptual: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.module, self.perceptual = module, perceptual
        self.table = ScoreTable([ALL], METHODS, VIEW_SCORES).to(module.device)
        self.errors = {name: MeanMetric().to(module.device) for name in ERRORS}
        self.pictures: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, batch: SceneBatch) -> None:
        """Scores every scene of a batch.

        Raises:
            ValueError: The batch has no cameras, or a scene no unit of length; names sources or scenes.
        """
        if batch.cameras is None:
            raise ValueError(f"novel views need cameras, sources {sorted(set(batch.source))} lack them")
        inputs = int(batch.reference[0, :, 0].sum())
        free = self.module.reconstruct(batch.images[:, :inputs])
        with torch.autocast(batch.images.device.type, enabled=False):
            depths = torch.zeros_like(batch.images[:, :, :, 0]) if batch.depths is None else batch.depths
            depths, cameras, _ = normalise_scene(depths, batch.cameras, inputs, free.cameras)
        grids = {
            "pose_free": self._pose_free(batch.images, free, inputs),
            "given_cameras": self._given(batch.images, cameras, inputs),
            "copy_nearest": copy_nearest(batch.images, batch.cameras.c2w, batch.reference),
            "blurred_mean": blurred_mean(batch.images, batch.cameras.c2w, batch.reference),
        }
        self._picture(grids, batch, inputs)
        for method, grid in grids.items():
            self._score(method, grid, batch.images, batch.reference)
        if batch.depths is not None:
            self._add_bound(batch, depths, cameras, inputs)
            self._add_errors(free, depths[:, :inputs], cameras[:, :inputs])

    def results(self) -> dict[str, Any]:
        """The reconstruction block of metrics.json, means over all scenes seen by all ranks."""
        block = self.table.compute().get(ALL, {"scenes": 0})
        return block | {name: float(metric.compute()) for name, metric in self.errors.items()}

    def _pose_free(self, images: Tensor, free: Reconstruction, inputs: int) -> Tensor:
        cameras = pose_free_cameras(self.module, images, free, inputs)
        rendered = self.module.render(free.gaussians, cameras, images.shape[-2:], free.background)
        return torch.cat([images[:, :inputs], rendered], 1)

    def _given(self, images: Tensor, cameras: Cameras, inputs: int) -> Tensor:
        result = self.module.reconstruct(images[:, :inputs], cameras[:, :inputs])
        rendered = self.module.render(
            result.gaussians, cameras[:, inputs:], images.shape[-2:], result.background
        )
        return torch.cat([images[:, :inputs], rendered], 1)

    def _add_bound(self, batch: SceneBatch, depths: Tensor, cameras: Cameras, inputs: int) -> None:
        stored = (depths[:, :inputs] > 0).any((1, 3, 4)).all(0)  # timesteps with depth
        if not bool(stored.any()):
            return
        images, reference = batch.images[:, :, stored], batch.reference[:, :, stored]
        raw = images.new_zeros(*images[:, :inputs].shape[:3], GAUSSIAN_CHANNELS, *images.shape[-2:])
        known = depths[:, :inputs, stored]
        raw[:, :, :, 3] = torch.where(known > 0, 4.0, -20.0)  # opacity: nothing where depth is unknown
        gaussians = gaussians_from_maps(
            raw, images[:, :inputs], known.clamp(min=1e-3), cameras[:, :inputs], BOUND_PIXEL_SCALE
        )
        background = self.module.background_of(images[:, :inputs])
        rendered = self.module.render(gaussians, cameras[:, inputs:], images.shape[-2:], background)
        self._score("true_depth", torch.cat([images[:, :inputs], rendered], 1), images, reference)

    def _add_errors(self, free: Reconstruction, depths: Tensor, cameras: Cameras) -> None:
        for scene in range(len(depths)):
            truth = cameras.c2w[scene]
            identity = torch.eye(4, device=truth.device).expand_as(truth)
            self.errors["rotation_deg"].update(rotation_error(free.cameras.c2w[scene], truth))
            self.errors["rotation_deg_identity"].update(rotation_error(identity, truth))
            self.errors["depth_abs_rel"].update(depth_abs_rel(free.depths[scene], depths[scene]))

    def _picture(self, grids: dict[str, Tensor], batch: SceneBatch, inputs: int) -> None:
        """Keeps a sheet of the first scenes of every source: a row a target view, at its middle timestep.

        Columns: nearest input | truth | pose-free | given cameras | mean of the two nearest, blurred.
        """
        middle = batch.images.shape[2] // 2
        shown = (
            grids["copy_nearest"],
            batch.images,
            *(grids[k] for k in ("pose_free", "given_cameras", "blurred_mean")),
        )
        for scene, (source, key) in enumerate(zip(batch.source, batch.keys)):
            if sum(name.startswith(f"{source}/") for name in self.pictures) < PICTURES:
                columns = torch.stack([x[scene, inputs:, middle] for x in shown], 1)
                self.pictures[f"{source}/{key}"] = grid_sheet(columns.clamp(0, 1).float())

    def _score(self, method: str, grid: Tensor, truth: Tensor, reference: Tensor) -> None:
        for scene in range(len(truth)):
            scores = score_views(grid[scene], truth[scene], reference[scene], self.perceptual)
            self.table.update(ALL, method, scores)


def pose_free_cameras(
    module: GaussianReconstruction, images: Tensor, free: Reconstruction, inputs: int, visible: float = 0.5
) -> Cameras:
    """Target cameras without given poses, the paper's way.

    The network runs again on {first input, targets}. Both runs put the first input at the origin; their units
    of length are made equal by the ratio of the two medians of the depth of that shared first frame, over its
    pixels whose Gaussians are visible.

    Args:
        module: Reconstructs.
        images: All views `b v t c h w`, inputs first.
        free: Reconstruction of the inputs.
        inputs: How many views are inputs.
        visible: Least opacity of a visible Gaussian.

    Returns:
        Cameras of the targets in the world of `free`.
    """
    views = [0, *range(inputs, images.shape[1])]
    again = module.reconstruct(images[:, views])
    depths, others = free.depths[:, 0, 0], again.depths[:, 0, 0]
    height, width = depths.shape[-2:]
    opacities = free.gaussians.opacities[:, 0, : height * width].unflatten(1, (height, width))
    scales = []
    for depth, other, opacity in zip(depths, others, opacities):
        seen = opacity >= visible
        seen = seen if bool(seen.any()) else torch.ones_like(seen)
        scales.append(depth[seen].median() / other[seen].median())
    return scale_cameras(again.cameras[:, 1:], torch.stack(scales))
