"""The whole command line on tiny shards: fit, resume, validate, predict."""

import csv
import gc
import itertools
import json
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset as wds
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_modules import VideoDiffusion
from main import main
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.evaluation.linear_predictor import write_linear_predictor
from scene4d.grid_format import read_grid
from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.pipelines import GridGenerator
from scene4d.sample_format import SceneSample, encode_sample
from scene4d.sample_pictures import encode_video

SIZE, VIEWS, FRAMES = 32, 3, 9


def moving_square(seed: int) -> np.ndarray:
    """A dark square on white that moves over time and, by another amount, over views."""
    images = np.full((VIEWS, FRAMES, SIZE, SIZE, 3), 255, np.uint8)
    for v in range(VIEWS):
        for t in range(FRAMES):
            x = (2 + seed + 2 * v + 2 * t) % (SIZE - 10)
            images[v, t, 8:18, x : x + 10] = (40 * (seed % 5), 60, 90)
    return images


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for name in ("train", "val"):
        with wds.TarWriter(str(folder / f"objects-{name}-000000.tar")) as writer:
            for k in range(4):
                text = np.full((1, 8), k / 4, np.float32)
                writer.write(
                    encode_sample(SceneSample(f"{name}{k}", "objects", moving_square(k), 12.0, text=text))
                )
    return folder


def config(shards, root, **changes) -> str:
    source = lambda name, **more: {  # noqa: E731
        "name": "objects", "urls": [str(shards / f"objects-{name}-*.tar")],
        "selection": {"class_path": "datamodules.GridSelection",
                      "init_args": {"views": 2, "view_strides": [1], "frames": FRAMES, **more}},
    }  # fmt: skip
    content = {
        "seed_everything": 1,
        "model": {"class_path": "lightning_modules.VideoDiffusion", "init_args": {
            "network": {"class_path": "scene4d.networks.WanGridTransformer", "init_args": {
                "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "text_dim": 8,
                "freq_dim": 16, "ffn_dim": 32, "num_layers": 1, "patch_size": [1, 1, 1]}},
            "autoencoder": {"class_path": "scene4d.networks.PatchAutoencoder",
                            "init_args": {"channels": 4, "width": 64, "depth": 1}},
            "flow": {"prediction": "data"}, "sampling": {"steps": 2},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "evaluation": {"class_path": "scene4d.evaluation.grids.GridEvaluation", "init_args": {}},
        }},
        "data": {"class_path": "datamodules.SceneDataModule", "init_args": {
            "size": SIZE, "batch_size": 2, "val_batch_size": 4, "num_workers": 0, "depth": False,
            "train": [source("train", reverse_views=0.0)], "val": [source("val", random=False)]}},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 4, "log_every_n_steps": 1,
                    "enable_progress_bar": False, "num_sanity_val_steps": 0, "val_check_interval": 4,
                    "check_val_every_n_epoch": None, "default_root_dir": str(root), "callbacks": [
                        {"class_path": "callbacks.ExponentialMovingAverage"},
                        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                         "init_args": {"save_last": True, "every_n_train_steps": 2}},
                        {"class_path": "callbacks.WeightsExport",
                         "init_args": {"path": "weights.safetensors", "trainable_only": True}}]},
    }  # fmt: skip
    content["trainer"] |= changes
    root.mkdir(parents=True, exist_ok=True)
    (root / "in.yaml").write_text(yaml.safe_dump(content))
    return str(root / "in.yaml")


def parameters(cli) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in cli.model.network.named_parameters()}


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return root, main(["fit", "--config", config(shards, root)])


def test_only_the_self_attention_trains(trained):
    _, cli = trained
    torch.manual_seed(0)
    names = {k for k, p in cli.model.network.named_parameters() if p.requires_grad}
    assert names and all(".attn1." in k for k in names)
    with safe_open(str(trained[0] / "weights.safetensors"), "pt") as file:
        assert set(file.keys()) == names


@pytest.mark.parametrize("batches", [1, 2])
def test_a_killed_run_goes_on_with_the_next_batch(trained, shards, tmp_path, batches):
    more = {"accumulate_grad_batches": batches}
    whole = trained[1] if batches == 1 else main(["fit", "--config", config(shards, tmp_path / "a", **more)])
    main(["fit", "--config", config(shards, tmp_path, max_steps=2, **more)])
    again = main(["fit", "--config", config(shards, tmp_path, **more), "--ckpt_path", "last"])
    assert again.trainer.global_step == 4
    expected = parameters(whole)
    for name, value in parameters(again).items():  # same batches, same noise: the same bits
        assert torch.equal(expected[name], value), name


def test_every_batch_has_its_own_noise_and_counts_once_in_the_logged_losses(shards, tmp_path, monkeypatch):
    """4 steps of 4 batches of one sample, written every 2 steps; one sample in 16 is of the rare source."""
    loss, latents, noises, sigmas, seen = RectifiedFlow.loss, GridGenerator.latents, [], [], []

    def recorded(self, network, x, mask, text, levels, noise):
        losses = loss(self, network, x, mask, text, levels, noise)
        noises.append(noise.sum().item())
        sigmas.append(levels.item())
        seen[-1] += (losses.item(),)
        return losses

    monkeypatch.setattr(GridGenerator, "latents", lambda *x: seen.append((x[1].source[0],)) or latents(*x))
    monkeypatch.setattr(RectifiedFlow, "loss", recorded)
    path = config(shards, tmp_path, log_every_n_steps=2, accumulate_grad_batches=4, limit_val_batches=0)
    content = yaml.safe_load((tmp_path / "in.yaml").read_text())
    train = content["data"]["init_args"]["train"]
    train[0]["weight"] = 15.0
    train.append(train[0] | {"name": "rare", "weight": 1.0})
    content["data"]["init_args"]["batch_size"] = 1
    content["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}
    }  # fmt: skip
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(content))
    main(["fit", "--config", path])
    assert len(seen) == len(set(noises)) == len(set(sigmas)) == 16
    with open(next(tmp_path.rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    for name in ("objects", "rare"):
        windows = [[x for source, x in seen[start : start + 8] if source == name] for start in (0, 8)]
        expected = {step: np.mean(x) for step, x in zip(("1", "3"), windows) if x}
        column = f"train/loss_{name}"
        found = {row["step"]: float(row[column]) for row in rows if row[column]}
        assert found == pytest.approx(expected, rel=1e-5)
    assert {row["step"] for row in rows if row["train/loss"]} == {"1", "3"}


def scored(path) -> dict[tuple[str, str], dict[str, float]]:
    """Values of a file of scores, by source and method."""
    table: dict[tuple[str, str], dict[str, float]] = {}
    for row in json.loads(path.read_text())["diffusion"]:
        table.setdefault((row["source"], row["method"]), {})[row["score"]] = row["value"]
    return table


EXPORT = '[{"class_path": "callbacks.MetricsExport", "init_args": {"path": "scores.json"}}]'
GENERATED = {"sample", "one_step", "sample_static_reference", "sample_other_reference"}


def validate(root, *options: str, config: str = "in.yaml") -> dict[tuple[str, str], dict[str, float]]:
    """Scores of the run in `root`, by a command that writes no checkpoints itself."""
    main(["validate", "--config", str(root / config), "--ckpt_path", "last", "--trainer.callbacks", EXPORT,
          "--trainer.enable_checkpointing", "false", "--trainer.logger", "false", *options])  # fmt: skip
    return scored(root / "scores.json")


def test_validate_scores_every_method(trained, tmp_path):
    root, cli = trained
    generator = cli.model.generator
    write_linear_predictor(tmp_path / "linear.safetensors", torch.zeros(4, 4), generator.fingerprint)
    option = "--model.init_args.evaluation.init_args.linear_predictor"
    table = validate(root, option, str(tmp_path / "linear.safetensors"))
    copies = {"copy_freeze_time", "copy_fixed_view", "blend", "blurred_copy", "linear", "autoencoder"}
    assert set(table) == {("objects", method) for method in GENERATED | copies}
    scores = {"psnr", "psnr_foreground", "ssim", "iou", "sharpness"}
    assert scores | {"squeezenet_distance"} == set(table["objects", "sample"])
    assert table["objects", "copy_freeze_time"]["psnr"] < 30
    rows = json.loads((root / "scores.json").read_text())["diffusion"]
    counts = {row["method"]: row["count"] for row in rows if row["score"] == "psnr"}
    assert counts == dict.fromkeys(counts, 4) | {"sample_other_reference": 3}  # the first scene has no other


def test_validate_without_baselines_scores_the_network_alone_on_sources_of_any_name(trained):
    root, _ = trained
    content = yaml.safe_load((root / "in.yaml").read_text())
    content["data"]["init_args"]["val"][0]["name"] = "kubric"
    (root / "kubric.yaml").write_text(yaml.safe_dump(content))
    option = "--model.init_args.evaluation.init_args.baselines"
    table = validate(root, option, "false", config="kubric.yaml")
    assert set(table) == {("kubric", method) for method in GENERATED}


def test_a_validation_within_training_gives_its_memory_back(shards, tmp_path, monkeypatch):
    """Its batches are gone when training goes on, and no validation leaves more than the one before."""
    step, seen, alive, taken = VideoDiffusion.validation_step, [], [], []

    def validate(self, batch, *numbers):
        seen.extend(map(weakref.ref, (batch.images, batch.latents)))
        step(self, batch, *numbers)

    def count(self, batch, index):
        gc.collect()
        alive.append(sum(known() is not None for known in seen))
        tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
        taken.append(
            sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())
        )

    monkeypatch.setattr(VideoDiffusion, "validation_step", validate)
    monkeypatch.setattr(VideoDiffusion, "on_train_batch_start", count)
    main(["fit", "--config", config(shards, tmp_path, max_steps=6, val_check_interval=2)])
    assert len(seen) == 6 and alive == [0] * 6
    assert taken[2:4] == taken[4:6]  # after the first validation and after the second


def test_a_checkpoint_is_judged_by_its_averages(trained, monkeypatch, tmp_path):
    """Whatever callbacks the evaluation lists, and wherever the checkpoint is."""
    root, cli = trained
    checkpoint = next(root.rglob("last.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    averages = state["callbacks"]["ExponentialMovingAverage"]["averages"]
    name = next(iter(averages))
    assert not torch.equal(averages[name], state["state_dict"][name])
    for command in ("validate", "predict"):
        options = ["--trainer.callbacks", "[]", "--trainer.enable_checkpointing", "false"]
        if command == "predict":
            content = yaml.safe_load((root / "in.yaml").read_text())
            content["data"]["init_args"]["predict"] = content["data"]["init_args"]["val"]
            (tmp_path / "in.yaml").write_text(yaml.safe_dump(content))
        config = (root if command == "validate" else tmp_path) / "in.yaml"
        judged = main([command, "--config", str(config), "--ckpt_path", str(checkpoint), *options])
        assert torch.equal(dict(judged.model.named_parameters())[name], averages[name]), command


def test_last_of_a_folder_without_checkpoints_is_an_error(shards, tmp_path):
    with pytest.raises(ValueError, match="there is no last.ckpt"):
        main(["validate", "--config", config(shards, tmp_path), "--ckpt_path", "last"])


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_refused(shards, tmp_path, command):
    path = config(shards, tmp_path)
    content = yaml.safe_load((tmp_path / "in.yaml").read_text())
    content["data"]["init_args"]["predict"] = content["data"]["init_args"]["val"]
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"no weights were given for base \(\d+ tensors\), autoencoder \("):
        main([command, "--config", path])


def test_the_noise_of_training_follows_seed_batch_and_rank(monkeypatch):
    """Whatever the seed, no two batches of any ranks share a generator."""

    def seeds(seed: int, ranks: int, accumulated: int) -> set[int]:
        torch.manual_seed(seed)
        module = VideoDiffusion.__new__(VideoDiffusion)
        found = []
        for step, micro, rank in itertools.product(range(6), range(accumulated), range(ranks)):
            trainer = SimpleNamespace(
                accumulate_grad_batches=accumulated, global_step=step,
                distributed_sampler_kwargs={"num_replicas": ranks, "rank": rank},
            )  # fmt: skip
            monkeypatch.setattr(VideoDiffusion, "trainer", trainer, raising=False)
            monkeypatch.setattr(VideoDiffusion, "global_step", step, raising=False)
            found.append(VideoDiffusion.step_generator(module, step * accumulated + micro).initial_seed())
        assert len(found) == len(set(found)) and max(found) < 2**32  # the CPU's generator reads no more
        return set(found)

    assert seeds(1, 3, 2) == seeds(1, 3, 2)
    assert not seeds(1, 3, 2) & seeds(2, 3, 2)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_precisions_without_float32_weights_are_refused(shards, tmp_path, precision):
    with pytest.raises(ValueError, match=f"trainer.precision is {precision}, which keeps no float32"):
        main(["fit", "--config", config(shards, tmp_path, precision=precision)])


def test_a_pretrained_network_starts_from_the_part_that_an_earlier_stage_has_trained(tmp_path):
    sizes = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "text_dim": 8, "freq_dim": 16,
        "ffn_dim": 32, "num_layers": 1, "patch_size": (1, 1, 1),
    }  # fmt: skip
    WanGridTransformer(**sizes).base.save_pretrained(tmp_path / "transformer")
    path = str(tmp_path / "stage1.safetensors")

    def start(**network):
        module = VideoDiffusion(
            partial(WanGridTransformer, **network), lambda: PatchAutoencoder(4, 64, 1), RectifiedFlow(),
            initial_weights=[path],
        )  # fmt: skip
        module.configure_model()
        return module.network.state_dict()

    base = WanGridTransformer(pretrained=str(tmp_path)).state_dict()
    trained = {name: value + 1 for name, value in base.items() if ".attn1." in name}
    save_file(trained, path)
    found = start(pretrained=str(tmp_path))
    assert all(torch.equal(found[name], value) for name, value in (base | trained).items())
    with pytest.raises(ValueError, match=r"base\.scale_shift_table' is absent there"):
        start(**sizes)  # nothing else would give the rest
    save_file(trained | {"base.other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"'base\.other' is \[1\] there and absent in the network"):
        start(pretrained=str(tmp_path))


@pytest.mark.slow  # compiles for a minute
def test_compiled_blocks_train_to_the_same_loss(shards, tmp_path):
    plain = main(["fit", "--config", config(shards, tmp_path / "a", max_steps=2)])
    compiled = main([
        "fit", "--config", config(shards, tmp_path / "b", max_steps=2), "--model.init_args.compile", "true"
    ])  # fmt: skip
    first, second = (cli.trainer.callback_metrics["train/loss"] for cli in (plain, compiled))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_predict_from_two_videos(trained, tmp_path):
    root, _ = trained
    scene = moving_square(3)
    (tmp_path / "fixed.mp4").write_bytes(encode_video(scene[0], 12, crf=1))
    (tmp_path / "freeze.mp4").write_bytes(encode_video(scene[:, 0], 12, crf=1))
    main([
        "predict", "--config", str(root / "in.yaml"), "--config", "configs/evaluation/predict_grid.yaml",
        "--data.init_args.size", str(SIZE), "--data.init_args.frames", "9", "--data.init_args.views", "3",
        "--data.init_args.fixed_view", str(tmp_path / "fixed.mp4"),
        "--data.init_args.freeze_time", str(tmp_path / "freeze.mp4"),
        "--trainer.default_root_dir", str(tmp_path / "out"), "--ckpt_path", str(next(root.rglob("last.ckpt"))),
    ])  # fmt: skip
    grid = read_grid(tmp_path / "out" / "grid.safetensors")
    assert (
        grid.images.shape == (1, 3, 9, 3, SIZE, SIZE) and (tmp_path / "out" / "grid.mp4").stat().st_size > 0
    )
    truth = torch.from_numpy(scene).movedim(-1, 2).float() / 255
    assert (grid.images[0, 0] - truth[0]).abs().mean() < 0.02  # references are the given frames
    assert (grid.images[0, 1:, 1:] - truth[1:, 1:]).abs().mean() > 0.01  # the rest is generated


@pytest.mark.parametrize(
    "change, message",
    [
        (["--data.init_args.size", "20"], "20 x 20, both must be divisible by the autoencoder's 8"),
        (["--data.init_args.train", '[{"name": "x", "urls": ["absent.tar"], '
          '"selection": {"class_path": "datamodules.GridSelection"}}]'], "absent.tar"),
        (["--model.init_args.initial_weights", "[absent.safetensors]"], "absent.safetensors"),
        (["--model.init_args.trainable", "[attention3]"], "attention3"),
        (["--model.init_args.flow.prediction", "noise"], "noise"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(shards, tmp_path, change, message):
    with pytest.raises(Exception, match=message):
        main(["fit", "--config", config(shards, tmp_path), *change])
