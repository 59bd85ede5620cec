"""Judges reconstructions: novel views of held-out scenes, beside baselines that need no network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.evaluation.baselines import blurred_mean, copy_nearest
from scene4d.evaluation.rows import Row
from scene4d.evaluation.scores import VIEW_SCORES, depth_abs_rel, rotation_error, score_views
from scene4d.evaluation.table import SceneScores
from scene4d.geometry.alignment import align_cameras
from scene4d.geometry.normalised_batches import normalise_batch
from scene4d.losses.perceptual import PerceptualLoss
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS, gaussians_from_maps
from scene4d.pipelines import Reconstructor
from scene4d.pipelines.pose_alignment import align_by_rendering
from scene4d.types import Cameras, Reconstruction, SceneBatch
from scene4d.visualization import grid_sheet

Also = Literal["aligned_cameras", "test_time_alignment"]

METHODS = ("pose_free", "given_cameras", "copy_nearest", "blurred_mean", "true_depth", "identity")
BOUND_PIXEL_SCALE = 0.1  # the rasterizer's own blur of 0.55 pixels is there already; 0.3 costs over 1 dB

Images = Float[Tensor, "b v t 3 h w"]


class NovelViews:
    """Scores novel views of every scene; in the grid, inputs come first and then the target views.

    Methods:
        pose_free: The paper's protocol, see `Reconstructor.pose_free_cameras`. Nothing but images is used.
        given_cameras: True input and target cameras; their unit of length is that of the normalised scene,
            see `normalise_scene`.
        copy_nearest, blurred_mean: The nearest input view; the mean of the two nearest, blurred.
        true_depth: True depth and cameras with untrained Gaussians, the bound of the representation. It is scored
            at timesteps whose depth is stored.
        identity: Cameras that do not turn; only their rotations are scored.

    Methods that `also` adds:
        aligned_cameras: The scene of `pose_free`, seen from the true target cameras, which are brought into its world
            by the similarity of the input cameras (`align_cameras`). Beside `pose_free` it tells errors of the targets'
            poses from those of the scene.
        test_time_alignment: The scene of `pose_free`, from the target cameras that show the target images best: 100
            steps of Adam on their poses, which start from those of `pose_free` (`align_by_rendering`). It looks at the
            images that are scored, and takes 100 times as long as rendering and more.

    Scores are PSNR, SSIM and the perceptual distance under its own name; for `pose_free` also the errors of the
    input cameras' rotations (`rotation_deg`, to be compared with that of `identity`) and of depth
    (`depth_abs_rel`, where depth is known).

    Images of a size that the network does not accept are brought to one that it does, with their cameras and depths,
    and all methods are scored at that size, see `scene4d.geometry.accepted_sizes`.

    Every batch needs the same two calls of the network, whatever it holds: ranks never wait for each other.

    Args:
        pictures: How many scenes of each source become a picture.
        also: Further methods.

    Attributes:
        pictures: Sheets by `source/key`. A row is a target view at its middle timestep; the columns are
            nearest input | truth | pose-free | given cameras | mean of the two nearest, blurred.
    """

    table: SceneScores
    perceptual: PerceptualLoss

    def __init__(self, pictures: int = 4, also: list[Also] = []) -> None:  # noqa: B006 - never changed
        self.count, self.also = pictures, also
        self.pictures: dict[str, Float[Tensor, "c h w"]] = {}
        self.pictured: Counter[str] = Counter()

    def start(self, device: torch.device) -> None:
        """Forgets all scores and pictures; scoring will happen on `device`."""
        self.perceptual = PerceptualLoss().to(device)
        self.perceptual.announce()
        names = (*VIEW_SCORES[:-1], self.perceptual.score, "rotation_deg", "depth_abs_rel")
        self.table = SceneScores((*METHODS, *self.also), names).to(device)
        self.pictures, self.pictured = {}, Counter()

    @torch.no_grad()
    def add(self, pipeline: Reconstructor, batch: SceneBatch) -> None:
        """Scores every scene of a batch.

        Raises:
            ValueError: The batch has no cameras, or a scene no unit of length; names the sources.
        """
        batch = pipeline.fit(batch.images).batch(batch)
        if batch.cameras is None:
            raise ValueError(f"novel views need cameras, sources {sorted(set(batch.source))} lack them")
        given = batch.images[:, : batch.inputs]
        prediction = pipeline.network(given)
        free = pipeline.assemble(prediction, given)
        depths, cameras = normalise_batch(batch, free.cameras)
        known = pipeline.assemble(prediction, given, cameras[:, : batch.inputs])
        targets = pipeline.pose_free_cameras(batch.images, free)
        free, known = (replace(x, gaussians=pipeline.pruning(x.gaussians)) for x in (free, known))
        grids = {
            "pose_free": _novel(pipeline, free, targets, given),
            "given_cameras": _novel(pipeline, known, cameras[:, batch.inputs :], given),
            "copy_nearest": copy_nearest(batch.images, batch.cameras.c2w, batch.reference),
            "blurred_mean": blurred_mean(batch.images, batch.cameras.c2w, batch.reference),
        }
        if "aligned_cameras" in self.also:
            aligned = align_cameras(cameras[:, batch.inputs :], cameras[:, : batch.inputs], free.cameras)
            grids["aligned_cameras"] = _novel(pipeline, free, aligned, given)
        if "test_time_alignment" in self.also:
            fitted = align_by_rendering(pipeline, free, targets, batch.images[:, batch.inputs :])
            grids["test_time_alignment"] = _novel(pipeline, free, fitted, given)
        self._picture(grids, batch)
        for index in range(len(given)):
            scene = replace(batch.sample(index), depths=depths[[index]], cameras=cameras[[index]])
            views = {method: grid[index] for method, grid in grids.items()}
            self._score(pipeline, scene, views, _only(free, index))

    def compute(self) -> list[Row]:
        """Means over all scenes that any rank has seen, for each source."""
        return self.table.compute()

    def _score(
        self,
        pipeline: Reconstructor,
        scene: SceneBatch,
        views: dict[str, Float[Tensor, "v t 3 h w"]],
        free: Reconstruction,
    ) -> None:
        """Scores one scene, given in the normalised world, with all methods."""
        truth, reference = scene.images[0], scene.reference[0]
        scores = {method: self._compare(grid, truth, reference) for method, grid in views.items()}
        errors = camera_and_depth_errors(scene, free)
        for method, values in errors.items():
            scores[method] = scores.get(method, {}) | values
        stored = timesteps_with_depth(scene)
        if bool(stored.any()):  # a matter of this scene: no network is called
            bound = from_true_depth(pipeline, scene, stored)
            scores["true_depth"] = self._compare(bound, truth[:, stored], reference[:, stored])
        for method, values in scores.items():
            failed = method in views and not bool(views[method].isfinite().all())
            self.table.update(scene.source[0], scene.keys[0], method, values, failed)

    def _compare(
        self,
        views: Float[Tensor, "v t 3 h w"],
        truth: Float[Tensor, "v t 3 h w"],
        reference: Bool[Tensor, "v t"],
    ) -> dict[str, float]:
        scores = score_views(views, truth, reference, self.perceptual)
        return {self.perceptual.score if name == "perceptual" else name: x for name, x in scores.items()}

    def _picture(self, grids: dict[str, Images], batch: SceneBatch) -> None:
        """Keeps a sheet of the first scenes of every source."""
        middle, shown = batch.images.shape[2] // 2, ("pose_free", "given_cameras", "blurred_mean")
        columns = (grids["copy_nearest"], batch.images, *(grids[method] for method in shown))
        for index, (source, key) in enumerate(zip(batch.source, batch.keys)):
            if self.pictured[source] < self.count:
                self.pictured[source] += 1
                sheet = torch.stack([x[index, batch.inputs :, middle] for x in columns], 1)
                self.pictures[f"{source}/{key}"] = grid_sheet(sheet.clamp(0, 1).float())


def _only(scenes: Reconstruction, index: int) -> Reconstruction:
    """One scene as a batch of one."""
    return scenes.apply(lambda x: x[index : index + 1])


def _novel(
    pipeline: Reconstructor, scene: Reconstruction, targets: Cameras, given: Images
) -> Float[Tensor, "b all t 3 h w"]:
    """The given views, then the views of the target cameras."""
    rendered = pipeline.render(scene.gaussians, targets, given.shape[-2:], scene.background)
    return torch.cat([given, rendered], 1)


def camera_and_depth_errors(scene: SceneBatch, free: Reconstruction) -> dict[str, dict[str, float]]:
    """Errors of one scene's input views by method, see `NovelViews`."""
    assert scene.cameras is not None and scene.depths is not None and free.depths is not None
    truth = scene.cameras.c2w[0, : scene.inputs]
    identity = torch.eye(4, device=truth.device).expand_as(truth)
    return {
        "pose_free": {
            "rotation_deg": rotation_error(free.cameras.c2w[0], truth),
            "depth_abs_rel": depth_abs_rel(free.depths[0], scene.depths[0, : scene.inputs]),
        },
        "identity": {"rotation_deg": rotation_error(identity, truth)},
    }


def timesteps_with_depth(scene: SceneBatch) -> Bool[Tensor, " t"]:
    """True where depth of the input views is stored."""
    assert scene.depths is not None
    return (scene.depths[0, : scene.inputs] > 0).any((0, 2, 3))


def from_true_depth(
    pipeline: Reconstructor, scene: SceneBatch, stored: Bool[Tensor, " t"]
) -> Float[Tensor, "v s 3 h w"]:
    """Views of untrained Gaussians at the true depth of one scene, at the timesteps that have it."""
    assert scene.cameras is not None and scene.depths is not None
    given, known = scene.images[:, : scene.inputs, stored], scene.depths[:, : scene.inputs, stored]
    raw = given.new_zeros(*given.shape[:3], GAUSSIAN_CHANNELS, *given.shape[-2:])
    raw[:, :, :, 3] = torch.where(known > 0, 4.0, -20.0)  # opacity: nothing where depth is unknown
    gaussians = gaussians_from_maps(
        raw, given, known.clamp(min=1e-3), scene.cameras[:, : scene.inputs], BOUND_PIXEL_SCALE
    )
    bound = Reconstruction(scene.cameras, gaussians, pipeline.background_of(given))
    return _novel(pipeline, bound, scene.cameras[:, scene.inputs :], given)[0]
