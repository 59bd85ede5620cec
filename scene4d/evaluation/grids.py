"""Scores samples of the diffusion model beside everything that must be beaten, source by source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.distributed.agreement import any_rank, from_first_rank
from scene4d.evaluation.baselines import blend, blurred_copy, copy_fixed_view, copy_freeze_time
from scene4d.evaluation.linear_predictor import LinearPredictor, read_linear_predictor
from scene4d.evaluation.rows import Row
from scene4d.evaluation.scores import GRID_SCORES, score_grid
from scene4d.evaluation.table import SceneScores, scene_number
from scene4d.losses import PerceptualLoss
from scene4d.pipelines import GridGenerator
from scene4d.references import References, reference_mask
from scene4d.types import SceneBatch
from scene4d.visualization import comparison_sheet

GENERATED = ("sample", "one_step", "sample_static_reference", "sample_other_reference")
WITH_LESS = {
    "fixed_view": "sample_fixed_view",
    "freeze_time": "sample_freeze_time",
    "none": "sample_no_reference",
}
BASELINES = ("copy_freeze_time", "copy_fixed_view", "blend", "blurred_copy", "linear", "autoencoder")
Grid = Float[Tensor, "b v t c h w"]


class GridEvaluation:
    """Generates every held-out grid from its fixed-view and freeze-time videos and scores all other frames.

    Two of the methods test whether motion is transferred at all: `sample_static_reference` samples with the
    fixed-view video standing still, `sample_other_reference` with that of the first scene of the source. Both are
    scored against the true grid and must lose. The first scene has no score of the latter.

    The model may also be asked to do with less: `sample_fixed_view` and `sample_freeze_time` get one of the two videos,
    and `sample_no_reference` only the caption. Their scores are over all frames that were not given to them.

    Args:
        white_background: Names of the sources whose scenes have a white background, so that silhouettes are scored.
        linear_predictor: File that `python -m preparation.linear_predictor` has written; None leaves this baseline out.
        baselines: Whether to score copies, blends, the linear predictor and the autoencoder, too. Their scores are the
            same for all weights of the diffusion model.
        with_less: Which samples with fewer references to score, too: "fixed_view", "freeze_time", "none".

    Raises:
        ValueError: `with_less` names another way of giving references.
    """

    def __init__(
        self,
        white_background: list[str] = ["objects"],  # noqa: B006 - shown by --help and never changed
        linear_predictor: str | None = None,
        baselines: bool = True,
        with_less: Sequence[References] = (),
    ) -> None:
        if unknown := set(with_less) - WITH_LESS.keys():
            raise ValueError(f"with_less names {sorted(unknown)}, expected some of {', '.join(WITH_LESS)}")
        self.with_less = list(with_less)
        self.white_background, self.baselines = white_background, baselines
        self.linear_predictor = linear_predictor if baselines else None
        self.pictures: dict[str, Float[Tensor, "c h w"]] = {}

    def start(self, device: torch.device) -> None:
        """Forgets all scores and pictures."""
        self.device, self.perceptual = device, PerceptualLoss().to(device)
        self.names = {name: self.perceptual.score if name == "perceptual" else name for name in GRID_SCORES}
        methods = [*GENERATED, *(WITH_LESS[way] for way in self.with_less), *BASELINES]
        self.scores = SceneScores(methods, list(self.names.values())).to(device)
        self.firsts: dict[str, tuple[int, Float[Tensor, "t c h w"]]] = {}
        self.linear: LinearPredictor | None = None
        self.pictures.clear()

    @torch.no_grad()
    def add(self, pipeline: GridGenerator, batch: SceneBatch) -> None:
        """Generates and scores one batch of a single source.

        Raises:
            ValueError: The batch holds stored latents instead of pictures, or the linear predictor was fitted to
                another autoencoder.
        """
        source, batch = batch.source[0], _with_references(batch, "both")
        methods = self._generated(pipeline, batch)
        if self.baselines:
            methods |= self._copied(pipeline, batch.images)
        for method, images in methods.items():
            self._score_all(method, images, batch)
        for way in self.with_less:
            given = _with_references(batch, way)
            self._score_all(WITH_LESS[way], pipeline(given).images, given)
        if source not in self.pictures:
            self.pictures[source] = grid_picture(batch.sample(0), methods["sample"][:1])

    def compute(self) -> list[Row]:
        """Means over all scenes that any rank has seen, a scene counted once."""
        return self.scores.compute()

    def _score_all(self, method: str, grids: Grid, batch: SceneBatch) -> None:
        grids, source = (
            torch.where(batch.reference[..., None, None, None], batch.images, grids),
            batch.source[0],
        )
        for scene, key in enumerate(batch.keys):
            if method != "sample_other_reference" or scene_number(source, key) != self.firsts[source][0]:
                self._score(method, grids[scene], batch.sample(scene))

    def _score(self, method: str, images: Float[Tensor, "v t c h w"], scene: SceneBatch) -> None:
        (source,), (key,) = scene.source, scene.keys
        white = source in self.white_background
        scores = score_grid(images, scene.images[0], scene.reference[0], self.perceptual, white)
        named = {self.names[name]: value for name, value in scores.items()}
        self.scores.update(source, key, method, named, failed=not bool(images.isfinite().all()))

    def _generated(self, pipeline: GridGenerator, batch: SceneBatch) -> dict[str, Grid]:
        """Grids of the network by method. All ranks sample equally often, whatever their scenes are."""
        path = list(pipeline.predictions(batch))
        grids = {"one_step": pipeline.complete(batch, path[0]), "sample": pipeline.complete(batch, path[-1])}
        for method, row in (
            ("sample_static_reference", batch.images[:, 0, :1].expand_as(batch.images[:, 0])),
            ("sample_other_reference", self._first_row(batch)),
        ):
            given = batch.images.clone()
            given[:, 0, 1:] = row[:, 1:]
            changed = any_rank(not torch.equal(given, batch.images), self.device)
            # the same references and the same noise give the same sample: still scenes are sampled once
            grids[method] = pipeline(replace(batch, images=given)).images if changed else grids["sample"]
        return grids

    def _first_row(self, batch: SceneBatch) -> Float[Tensor, "b t c h w"]:
        """The fixed-view video of the first scene of the source, as rank 0 has met it."""
        source = batch.source[0]
        if source not in self.firsts:
            number = torch.tensor(scene_number(source, batch.keys[0]), device=self.device)
            self.firsts[source] = int(from_first_rank(number)), from_first_rank(batch.images[0, 0])
        return self.firsts[source][1].expand_as(batch.images[:, 0])

    def _copied(self, pipeline: GridGenerator, images: Grid) -> dict[str, Grid]:
        """Grids of the baselines by method."""
        grids = {
            "copy_freeze_time": copy_freeze_time(images),
            "copy_fixed_view": copy_fixed_view(images),
            "blend": blend(images),
            "blurred_copy": blurred_copy(images),
        }
        if self.linear_predictor is not None:
            if self.linear is None:
                weights = read_linear_predictor(self.linear_predictor, pipeline.fingerprint)
                self.linear = LinearPredictor(pipeline.encode, pipeline.decode, weights)
            grids["linear"] = self.linear.predict(images)
        return grids | {"autoencoder": pipeline.decode(pipeline.encode(images))}


def _with_references(batch: SceneBatch, references: References) -> SceneBatch:
    """The batch with other frames given."""
    mask = reference_mask(references, *batch.reference.shape[1:]).to(batch.reference.device)
    return replace(batch, reference=mask.expand_as(batch.reference))


def grid_picture(
    scene: SceneBatch, generated: Float[Tensor, "1 v t c h w"], frames: int = 5
) -> Float[Tensor, "c y x"]:
    """Draws a contact sheet of one scene: reference, generated, truth, copy; a few frames of every view."""
    images = scene.images
    given = torch.where(scene.reference[..., None, None, None], images, 0.5)
    chosen = torch.linspace(0, images.shape[2] - 1, min(frames, images.shape[2])).round().long()
    rows = {"reference": given, "generated": generated, "truth": images, "copy": copy_freeze_time(images)}
    return comparison_sheet({name: grid[0][:, chosen].float().cpu() for name, grid in rows.items()})
