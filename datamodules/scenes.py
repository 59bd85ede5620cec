"""The data module of both models: a training mixture of sources and held-out scenes of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lightning import LightningDataModule

from datamodules.held_out import HeldOutBatches, HeldOutLoader
from datamodules.loader import Part, ResumableLoader, rank_and_world
from datamodules.mixture import Ingredient, MixedBatches
from datamodules.shards import expand_urls
from datamodules.sources import GridReader, Source, SourceDefaults
from datamodules.staged_sources import check_readable, staged
from scene4d.stages import Stage, accumulated_batches, check_stages


class SceneDataModule(LightningDataModule):
    """Reads WebDataset shards (see `scene4d.sample_format`) as batches of view x time grids (`SceneBatch`).

    The grids of the sources may differ in size, views and frames; all grids of a batch have one shape.

    Training reads an endless mixture of the sources whose shares are exact; it ends through the trainer
    (`max_steps`, `limit_train_batches`). Lightning's checkpoints hold its place: a run that was killed at any
    point and is started again with `--ckpt_path last` goes on with the next batch. Validation, test and
    prediction go through all held-out scenes in a fixed order, with one loader per source. Test uses the scenes
    of validation.

    A training may go through `stages`, whose grids have other numbers of views and frames. The stage follows from the
    number of the batch, and a stage goes on in the shards where the one before has stopped.

    Args:
        train: Sources of the training mixture.
        val: Held-out sources for validation and test.
        predict: Sources for prediction.
        train_defaults: Settings for all sources of `train` that do not say otherwise.
        val_defaults: Settings for all sources of `val` and `predict` that do not say otherwise.
        batch_size: Samples per batch and rank in training.
        global_batch: Samples of one optimizer step over all ranks; gradients are accumulated until it is complete.
            None makes a step of `trainer.accumulate_grad_batches` batches.
        stages: What each stage of the training changes; on the command line and in configs they are given once for
            data and model, as `stages`.
        val_batch_size: Samples per batch and rank in validation, test and prediction.
        num_workers: Worker processes per rank in training; 0 reads in the main process.
        val_num_workers: Worker processes in validation, test and prediction.
        size: Height and width of the images, or one number for square ones; networks ask for multiples of their
            stride or patch size.
        depth: Whether to read depth where it is stored; reconstruction needs it, diffusion does not.
        cache_mb: Memory that keeps decoded views, in megabytes for each source and worker.
        seed: Decides the order of the samples and all random choices.
        val_scenes: Largest number of held-out scenes of each source in validation and test; the first ones are
            taken. A mapping from names to numbers limits these sources alone. None takes all scenes.

    Raises:
        ValueError: A size is not positive, two sources of a list share a name, a source has no selection, or
            `val_scenes` names a source that `val` does not have.
    """

    def __init__(
        self,
        train: tuple[Source, ...] = (),
        val: tuple[Source, ...] = (),
        predict: tuple[Source, ...] = (),
        train_defaults: SourceDefaults = SourceDefaults(),  # noqa: B008 - shown by --help and never changed
        val_defaults: SourceDefaults = SourceDefaults(),  # noqa: B008
        batch_size: int = 4,
        global_batch: int | None = None,
        stages: list[Stage] = [],  # noqa: B006
        val_batch_size: int = 4,
        num_workers: int = 1,
        val_num_workers: int = 0,
        size: int | tuple[int, int] = 64,
        depth: bool = True,
        cache_mb: float = 256.0,
        seed: int = 0,
        val_scenes: int | dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = _checked_size(size)
        for sources in (train, val, predict):
            for source in sources:
                self._size(source)
            names = [source.name for source in sources]
            if len(set(names)) < len(names):
                raise ValueError(f"source names must be unique, got {names}")
        self.train = [source.filled(train_defaults) for source in train]
        self.val = [source.filled(val_defaults) for source in val]
        self.predict = [source.filled(val_defaults) for source in predict]
        self.val_scenes = _limits(val_scenes, [source.name for source in val])
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.num_workers, self.val_num_workers = num_workers, val_num_workers
        check_stages(stages)
        self.global_batch, self.stages = global_batch, list(stages)
        self.depth, self.cache_mb, self.seed = depth, cache_mb, seed
        self._urls: dict[str, list[str]] = {}

    def setup(self, stage: str) -> None:
        """Looks for the shards that the stage needs.

        Raises:
            ValueError: The stage has no source, or a shard is missing; names the source and the path.
        """
        lists = {"fit": ("train", "val"), "validate": ("val",), "test": ("val",), "predict": ("predict",)}
        wanted = {"train": self.train, "val": self.val, "predict": self.predict}
        if not wanted[lists[stage][0]]:
            raise ValueError(f"nothing to read: give data.init_args.{lists[stage][0]} at least one source")
        for part in lists[stage]:
            for source in wanted[part]:
                self._urls[f"{part}/{source.name}"] = expand_urls(source.name, source.urls)

    def train_dataloader(self) -> ResumableLoader:
        """The endless mixture, or that of one stage after the other.

        Raises:
            ValueError: No sample is long enough for a stage, or the global batch does not fit ranks and batch sizes;
                names the stage and the numbers.
        """
        parts = [self._part(stage) for stage in self.stages] or [self._part(None)]
        loader = ResumableLoader(parts, self.num_workers, place=self._place())
        for stage, (before, part) in enumerate(pairwise(parts), 2):
            assert before.until is not None
            if loader.batches_before(before.until) % part.accumulated:
                raise ValueError(
                    f"stages: stage {stage} begins at step {before.until} after {loader.batches_before(before.until)} "
                    f"batches, which must be a multiple of its {part.accumulated} accumulated batches"
                )
            check_readable(part.batches, f"stage {stage}")
        return loader

    def _part(self, stage: Stage | None) -> Part:
        """The mixture of one stage."""
        sources = [staged(source, stage) for source in self.train]
        size = (stage and stage.batch_size) or self.batch_size
        ingredients = [
            Ingredient(
                source.name,
                self._urls[f"train/{source.name}"],
                source.weight,
                self._reader(source),
                self._shape(source),
            )
            for source in sources
        ]
        _, ranks = self._place()
        given = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        count = given if self.global_batch is None else accumulated_batches(self.global_batch, ranks, size)
        return Part(MixedBatches(ingredients, size, self.seed), count, stage.until if stage else None)

    def val_dataloader(self) -> list[HeldOutLoader]:
        """One loader per source."""
        return self._held_out("val", self.val)

    def test_dataloader(self) -> list[HeldOutLoader]:
        """The validation scenes."""
        return self._held_out("val", self.val)

    def predict_dataloader(self) -> list[HeldOutLoader]:
        """One loader per source."""
        return self._held_out("predict", self.predict)

    def _held_out(self, part: str, sources: Sequence[Source]) -> list[HeldOutLoader]:
        return [
            HeldOutLoader(
                HeldOutBatches(
                    source.name,
                    self._urls[f"{part}/{source.name}"],
                    self._reader(source),
                    self.val_batch_size,
                    self.seed,
                    self.val_scenes.get(source.name) if part == "val" else None,
                ),
                self.val_num_workers,
                self._place(),
            )
            for source in sources
        ]

    def _place(self) -> tuple[int, int]:
        """Which reader this process is, and how many there are: ranks that share a batch read the same."""
        if self.trainer is None or (sampler := self.trainer.distributed_sampler_kwargs) is None:
            return rank_and_world()
        return sampler["rank"], sampler["num_replicas"]

    def _reader(self, source: Source) -> GridReader:
        return GridReader(source, self._size(source), self.depth, self.cache_mb)

    def _shape(self, source: Source) -> tuple[int, ...]:
        """Grids of one shape may share a batch."""
        assert source.selection is not None  # filled
        return (*self._size(source), *source.selection.shape, source.latents)

    def _size(self, source: Source) -> tuple[int, int]:
        return self.size if source.size is None else _checked_size(source.size)


def _limits(scenes: int | dict[str, int] | None, names: Sequence[str]) -> dict[str, int]:
    if scenes is None:
        return {}
    limits = scenes if isinstance(scenes, dict) else dict.fromkeys(names, scenes)
    for name, count in limits.items():
        if name not in names or count < 1:
            raise ValueError(
                f"val_scenes gives {name!r} {count} scenes; sources of val are {', '.join(names)}"
            )
    return limits


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size must be positive, got {size}")
    return height, width
