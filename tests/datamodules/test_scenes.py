import re
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import (
    GridAugmentation,
    GridSelection,
    HomographyViews,
    SceneDataModule,
    Source,
    SourceDefaults,
)
from datamodules.held_out import HeldOutBatches, HeldOutLoader
from lightning_modules.from_config import training_parser

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("small_*.yaml"))


class Recorder(LightningModule):
    """Notes the keys of its batches; fails at a chosen step as if it were killed."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at, self.seen, self.validated = fail_at, [], []

    def training_step(self, batch, index):
        if self.global_step == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(batch.keys + [round(batch.images.mean().item(), 6)])
        return self.layer(batch.images.mean().reshape(1, 1)).sum()

    def validation_step(self, batch, index, dataloader_idx=0):
        self.validated.append((dataloader_idx, batch.keys))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("scenes")
    shards(folder, "objects", shards=2, samples=3)
    shards(folder, "homography", shards=1, samples=4, views=1, size=24)
    return folder


def sources(folder, random=True):
    grid = GridSelection(views=2, view_strides=[1, 2], frames=5, random=random)
    return [
        Source("objects", [f"{folder}/objects-train-*.tar"], grid, weight=2),
        Source("homography", [f"{folder}/homography-train-*.tar"], grid, homography=HomographyViews()),
    ]


def data_module(folder, workers=0, **changes):
    arguments = {"batch_size": 3, "val_batch_size": 2, "num_workers": workers, "size": 16}
    arguments |= {"train": sources(folder), "val": sources(folder, random=False)} | changes
    return SceneDataModule(**arguments)


def fit(folder, run, workers, steps, fail_at=None, resume=None, **options):
    model = Recorder(fail_at)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[ModelCheckpoint(run, every_n_train_steps=1, save_top_k=0, save_last=True)],
        **options,
    )
    try:
        trainer.fit(model, datamodule=data_module(folder, workers), ckpt_path=resume, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert fail_at is not None
    return model.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 4}], ids=["one-epoch", "short-epochs"])
def test_killed_and_resumed_run_sees_the_same_batches(folder, tmp_path, workers, options):
    whole = fit(folder, tmp_path / "whole", workers, 9, **options)
    head = fit(folder, tmp_path / "killed", workers, 9, fail_at=5, **options)
    tail = fit(folder, tmp_path / "killed", workers, 9, resume="last", **options)
    assert len(whole) == 9 and len(head) == 5
    assert head + tail == whole


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_sees_every_scene_once_in_order(folder, workers):
    data = data_module(folder, val_num_workers=workers)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    seen = []
    for _ in range(2):
        model = Recorder()
        trainer.validate(model, datamodule=data, verbose=False)
        seen.append(model.validated)
    objects = [f"objects_{shard}_{index}" for shard in range(2) for index in range(3)]
    assert [key for loader, keys in seen[0] if loader == 0 for key in keys] == objects
    assert [key for loader, keys in seen[0] if loader == 1 for key in keys] == [
        f"homography_0_{i}" for i in range(4)
    ]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "limit, expected", [(3, [3, 3]), ({"objects": 3}, [3, 4]), ({"objects": 99}, [6, 4])]
)
def test_the_first_held_out_scenes_alone(folder, limit, expected):
    def keys(module):
        module.setup("validate")
        loaders = module.val_dataloader()
        taken = [[key for batch in loader for key in batch.keys] for loader in loaders]
        assert [len(loader) for loader in loaders] == [-(-len(found) // 2) for found in taken]
        return taken

    limited, whole = keys(data_module(folder, val_scenes=limit)), keys(data_module(folder))
    assert limited == [found[:count] for found, count in zip(whole, expected)]


@pytest.mark.parametrize("limit", [0, {"objects": 0}, {"onjects": 3}])
def test_a_senseless_limit_of_held_out_scenes_is_named(folder, limit):
    with pytest.raises(ValueError, match="val_scenes gives 'o.jects'"):
        data_module(folder, val_scenes=limit)


def test_held_out_batches_are_the_same_at_every_run(folder):
    data = data_module(folder)
    data.setup("test")
    runs = [[batch.images for loader in data.test_dataloader() for batch in loader] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs)) and len(runs[0]) == 5
    assert [len(loader) for loader in data.test_dataloader()] == [3, 2]


@pytest.mark.parametrize("ranks", [2, 4, 7, 9])
def test_held_out_scenes_are_split_evenly_over_ranks(folder, ranks, monkeypatch):
    """6 scenes: every rank has the same number of batches, all scenes are seen."""
    data = data_module(folder)
    data.setup("validate")
    plain = data.val_dataloader()[0].dataset
    found = []
    for rank in range(ranks):
        monkeypatch.setattr("datamodules.held_out.rank_and_world", lambda rank=rank: (rank, ranks))
        loader = HeldOutLoader(HeldOutBatches("objects", plain.urls, plain.read, 2, 0), 0)
        batches = [batch.keys for batch in loader]
        assert len(batches) == len(loader)
        found.append([key for keys in batches for key in keys])
    assert len({len(keys) for keys in found}) == 1
    assert {key for keys in found for key in keys} == {f"objects_{s}_{i}" for s in range(2) for i in range(3)}


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_held_out_sample_raises_one_line(folder, tmp_path, workers):
    shard = tmp_path / "objects-train-000000.tar"
    shard.write_bytes((folder / shard.name).read_bytes()[:9000])
    data = data_module(tmp_path, val=sources(tmp_path)[:1], val_num_workers=workers)
    data.setup("validate")
    with pytest.raises(ValueError, match=r"^shard .*objects-train-000000.tar[^\n]*$"):
        list(data.val_dataloader()[0])


def test_predict_uses_its_own_sources(folder):
    data = data_module(folder, predict=sources(folder, random=False)[1:])
    data.setup("predict")
    assert [batch.keys for batch in data.predict_dataloader()[0]][0] == ["homography_0_0", "homography_0_1"]


@pytest.mark.parametrize("size", [0, -8, (64, 0)])
def test_size_must_be_positive(folder, size):
    with pytest.raises(ValueError, match="size must be positive, got "):
        data_module(folder, size=size)


def test_multiples_are_a_matter_of_the_networks(folder):
    """VGGT's 14 pixels a patch: 518 is no multiple of the autoencoder's 8."""
    data = data_module(folder, size=42)
    data.setup("fit")
    assert next(iter(data.train_dataloader())).images.shape[-2:] == (42, 42)


@pytest.mark.parametrize(
    "stage, part", [("fit", "train"), ("validate", "val"), ("test", "val"), ("predict", "predict")]
)
def test_a_stage_without_sources_says_what_to_give(folder, stage, part):
    with pytest.raises(ValueError, match=f"give data.init_args.{part} at least one source"):
        data_module(folder, **{part: []}).setup(stage)


def test_rectangular_size(folder):
    data = data_module(folder, size=(8, 16))
    data.setup("fit")
    assert next(iter(data.train_dataloader())).images.shape == (3, 2, 5, 3, 8, 16)


def test_sources_of_several_shapes_come_in_batches_of_one(folder):
    small, large = sources(folder)[0], sources(folder)[0]
    large.name, large.size, large.weight = "large_objects", (24, 16), 1
    large.selection = GridSelection(views=3, view_strides=[1], frames=1)
    data = data_module(folder, train=[small, large])
    data.setup("fit")
    batches = [batch for _, batch in zip(range(9), data.train_dataloader())]
    shapes = {name: batch.images.shape for batch in batches for name in batch.source}
    assert shapes == {"objects": (3, 2, 5, 3, 16, 16), "large_objects": (3, 3, 1, 3, 24, 16)}
    assert [batch.source[0] for batch in batches].count("large_objects") == 3
    large.size = 0
    with pytest.raises(ValueError, match="positive, got 0"):
        data_module(folder, train=[large])


def test_missing_shards_and_double_names_are_named(folder, tmp_path):
    data = data_module(tmp_path)
    with pytest.raises(ValueError, match="source 'objects': no shard found at .*objects-train"):
        data.setup("fit")
    with pytest.raises(ValueError, match="unique.*objects.*objects"):
        data_module(folder, train=sources(folder)[:1] * 2)


def test_more_views_than_stored_ends_with_the_reason(folder):
    source = sources(folder)[0]
    source.selection = GridSelection(views=9, frames=5)
    data = data_module(folder, train=[source])
    data.setup("fit")
    with pytest.raises(ValueError, match="source 'objects'.*has 4 views, GridSelection asks for 9"):
        next(iter(data.train_dataloader()))


def test_defaults_fill_the_sources_of_their_lists(folder):
    grid = GridSelection(views=2, view_strides=[1, 2], frames=5)
    whole = data_module(folder, workers=2)
    short = [
        Source("objects", ["objects-train-*.tar"], weight=2),
        Source("homography", ["homography-train-*.tar"], homography=HomographyViews()),
    ]
    defaults = {
        "train_defaults": SourceDefaults(str(folder), grid),
        "val_defaults": SourceDefaults("elsewhere", grid),
    }
    data = data_module(folder, workers=2, train=short, val=short[:1], predict=short[:1], **defaults)
    batches = []
    for module in (whole, data):
        module.val = []
        module.setup("fit")
        batches.append([batch for _, batch in zip(range(6), module.train_dataloader())])
    assert all(torch.equal(a.images, b.images) and a.keys == b.keys for a, b in zip(*batches))
    assert data.predict[0].urls == ["elsewhere/objects-train-*.tar"]
    with pytest.raises(ValueError, match="source 'homography' has no selection"):
        data_module(folder, train=short[1:])


def test_defaults_in_yaml_and_one_leaf_of_them(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("""
class_path: datamodules.SceneDataModule
init_args:
  train_defaults:
    root: shards
    selection: {class_path: datamodules.GridSelection, init_args: {frames: 9}}
    augmentation: {flip: 1.0}
  train:
    - {name: a, urls: [a.tar]}
    - {name: b, urls: [b.tar], augmentation: null}
    - {name: c, urls: [c.tar], augmentation: {gain: 0.1}}
""")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    frames = "--data.init_args.train_defaults.selection.init_args.frames=17"
    data = parser.instantiate(parser.parse_args([f"--data={file}", frames])).data
    assert [source.urls for source in data.train] == [["shards/a.tar"], ["shards/b.tar"], ["shards/c.tar"]]
    assert {source.selection.frames for source in data.train} == {17}
    changes = [source.augmentation for source in data.train]
    assert changes == [GridAugmentation(flip=1.0), None, GridAugmentation(gain=0.1)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configs_build_the_data_module(config):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    data = parser.instantiate(parser.parse_args([f"--data={config}"])).data
    assert type(data) is SceneDataModule
    assert all(source.urls for source in data.train + data.val)


def test_static_scenes_of_the_diffusion_have_no_reference_frames():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    config = CONFIGS[0].with_name("small_grid.yaml")
    data = parser.instantiate(parser.parse_args([f"--data={config}"])).data
    given = {source.name: (source.references.both, source.references.none) for source in data.train}
    assert given == {"objects": (1, 0), "physics": (1, 0), "homography": (1, 0), "static": (0, 1)}


def test_a_typo_in_a_config_is_refused(tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text(CONFIGS[0].read_text().replace("batch_size:", "batch_sizes:", 1))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    with pytest.raises(Exception, match="batch_sizes"):
        parser.parse_args([f"--data={config}"])


def test_two_held_out_samples_with_one_key_are_refused(folder):
    """Scores are kept by source and key: one of the two would be lost."""
    shard = str(sorted(folder.glob("*.tar"))[0])
    batches = HeldOutBatches("objects", [shard, shard], lambda members, rng: None, 1000, 0)
    (told,) = list(batches)
    assert re.fullmatch(r"source 'objects' holds two samples with the key '.+'; keys must be unique", told)


def test_sources_given_later_take_nothing_from_those_before(tmp_path):
    """As many as before: a list would give them the weights, homographies and references of their places."""
    (tmp_path / "own.yaml").write_text(
        "data.init_args.train: [{name: a, urls: [a.tar]}, {name: b, urls: [b.tar]}, {name: c, urls: [c.tar]}, "
        "{name: d, urls: [d.tar]}]"
    )
    configs = ["--config", "configs/small/diffusion_stage1.yaml", "--config", str(tmp_path / "own.yaml")]
    found = training_parser().parse_args(configs).data.init_args.train
    given = [source.get("init_args", source) for source in found]
    plain = [(source.weight, source.homography, source.references) for source in given]
    assert plain == [(1.0, None, None)] * 4
