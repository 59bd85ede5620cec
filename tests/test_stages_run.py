"""A run whose grids grow from 5 to 9 frames goes on exactly, in either stage and at the boundary."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules import VideoDiffusion
from lightning_modules.from_config import training_parser
from main import main
from scene4d.stages import Stage

OBJECTS = "assets/small/shards/objects-train-*.tar"
STAGES = [
    {"until": 2, "frames": 5, "batch_size": 2, "lr": 0.01, "warmup_steps": 1},
    {"until": 4, "frames": 9, "batch_size": 1, "lr": 0.002},
]


def config(root: Path) -> str:
    grid = {
        "class_path": "datamodules.GridSelection",
        "init_args": {"views": 2, "view_strides": [1], "frames": 5},
    }
    content = {
        "seed_everything": 1,
        "stages": STAGES,
        "model": {"class_path": "lightning_modules.VideoDiffusion", "init_args": {
            "network": {"class_path": "scene4d.networks.WanGridTransformer", "init_args": {
                "num_attention_heads": 1, "attention_head_dim": 12, "in_channels": 4, "freq_dim": 16, "ffn_dim": 32,
                "num_layers": 1, "patch_size": [1, 1, 1]}},
            "autoencoder": {"class_path": "scene4d.networks.PatchAutoencoder",
                            "init_args": {"channels": 4, "width": 64, "depth": 1}},
            "flow": {"prediction": "data"}}},
        "data": {"class_path": "datamodules.SceneDataModule", "init_args": {
            "size": 32, "num_workers": 0, "depth": False, "global_batch": 2,
            "train": [{"name": "objects", "urls": [OBJECTS], "selection": grid}],
            "val": [{"name": "objects", "urls": [OBJECTS], "selection": grid}]}},
        "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
                    "limit_val_batches": 0, "default_root_dir": str(root),
                    "callbacks": [{"class_path": "callbacks.ExponentialMovingAverage"},
                                  {"class_path": "callbacks.StepTimes"}]},
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "in.yaml").write_text(yaml.safe_dump(content))
    return str(root / "in.yaml")


@pytest.fixture
def seen(monkeypatch):
    """Keys, frames, noise and learning rate of every batch."""
    found, step = [], VideoDiffusion.training_step

    def watched(self, batch, index):
        loss = step(self, batch, index)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        found.append((tuple(batch.keys), batch.images.shape[2], round(rate, 6), loss.item()))
        return loss

    monkeypatch.setattr(VideoDiffusion, "training_step", watched)
    return found


def run(root, *options):
    torch.manual_seed(0)  # the autoencoder has random weights
    return main(["fit", "--config", config(root), *options]).model.state_dict()


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, seen, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        whole = run(tmp_path / "whole")
    batches = list(seen)
    assert [(len(keys), frames, rate) for keys, frames, rate, _ in batches] == (
        [(2, 5, 0.01)] * 2 + [(1, 9, 0.002)] * 4
    )
    assert "from step 0 on: global batch of 2 = 1 ranks x batches of 2 x 1 accumulated" in caplog.text
    assert "from step 2 on: global batch of 2 = 1 ranks x batches of 1 x 2 accumulated" in caplog.text
    for stop in (1, 2, 3):
        seen.clear()
        root = tmp_path / f"stopped_{stop}"
        run(root, "--trainer.max_steps", str(stop))
        resumed = run(root, "--ckpt_path", "last")
        assert seen == batches
        assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert "the stages change" not in caplog.text
    with caplog.at_level(logging.INFO):
        run(root, "--ckpt_path", "last", "--stages", json.dumps([*STAGES[:1], {**STAGES[1], "lr": 0.5}]))
    assert "the stages change from here on: they are [{'until': 2," in caplog.text


def test_stages_given_later_take_nothing_from_those_before(tmp_path):
    parser = training_parser()
    later = json.dumps([{"until": 7, "frames": 5}, {"until": 9, "frames": 9}])
    built = parser.instantiate(parser.parse_args(["--config", config(tmp_path), "--stages", later]))
    assert built.model.stages == built.data.stages == [Stage(7, frames=5), Stage(9, frames=9)]


def test_two_answers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give one of them"):
        run(tmp_path, "--trainer.accumulate_grad_batches", "2")
    scheduler = "--model.init_args.lr_scheduler.class_path=lightning_modules.schedules.WarmupCosine"
    with pytest.raises(ValueError, match="stages have learning rates of their own"):
        run(tmp_path, scheduler)


def test_short_epochs_end_between_global_batches_or_are_refused(tmp_path, seen):
    stages = ["--stages", json.dumps([{**STAGES[0], "batch_size": 1}, {**STAGES[1], "batch_size": 2}])]
    with pytest.raises(
        ValueError, match="ends epochs after 3 batches, which is no multiple of the 2 that make"
    ):
        run(tmp_path / "cut", *stages, "--trainer.limit_train_batches", "3")
    short = [*stages, "--trainer.limit_train_batches", "2"]
    whole = run(tmp_path / "whole", *short)
    batches = list(seen)
    seen.clear()
    run(tmp_path / "stopped", *short, "--trainer.max_steps", "3")
    resumed = run(tmp_path / "stopped", *short, "--ckpt_path", "last")
    assert seen == batches and all(torch.equal(resumed[name], weight) for name, weight in whole.items())
