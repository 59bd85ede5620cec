"""Training on stored latents: the losses of encoding on the fly, in-process through the command line."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from callbacks import GridLogging
from main import main
from preparation.latents import main as add_latents
from preparation.writing.shards import write_shard
from scene4d.networks.autoencoder import PatchAutoencoder
from scene4d.sample_format import SceneSample

CODEC = {"channels": 4, "width": 64, "depth": 1}


def scene(seed: int, frames: int) -> SceneSample:
    """Coarse noise, another for every view and frame."""
    images = np.random.default_rng(seed).integers(0, 256, (4, frames, 4, 4, 3), dtype=np.uint8)
    return SceneSample(f"s{seed}", "objects", images.repeat(8, 2).repeat(8, 3), 12.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    for seed in (0, 1):  # 0: the model's, 1: another
        torch.manual_seed(seed)
        save_file(PatchAutoencoder(**CODEC).state_dict(), folder / f"{seed}.safetensors")
    write_shard(folder / "raw" / "objects-train-000000.tar", [scene(k, 13) for k in range(3)])
    write_shard(folder / "raw" / "static-train-000000.tar", [scene(k, 1) for k in range(3, 6)])
    options = [f"--autoencoder.{name}={value}" for name, value in CODEC.items()]
    add_latents([
        f"{folder}/raw/*.tar", "--output", str(folder), "--frames", "9",
        "--autoencoder", "scene4d.networks.PatchAutoencoder", *options,
        f"--autoencoder.weights={folder}/0.safetensors",
    ])  # fmt: skip
    return folder


def config(folder, root, latents: bool, weights: int = 0) -> str:
    source = lambda name, **more: {  # noqa: E731
        "name": name, "urls": [str(folder / f"{name}-*.tar")], "latents": latents,
        "selection": {"class_path": "datamodules.GridSelection", "init_args": {
            "views": 3, "view_strides": [1], "frames": 9, "first_frame": True, **more}},
    }  # fmt: skip
    content = {
        "seed_everything": 1,
        "model": {"class_path": "lightning_modules.VideoDiffusion", "init_args": {
            "network": {"class_path": "scene4d.networks.WanGridTransformer", "init_args": {
                "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "text_dim": 8,
                "freq_dim": 16, "ffn_dim": 32, "num_layers": 1, "patch_size": [1, 1, 1]}},
            "autoencoder": {"class_path": "scene4d.networks.PatchAutoencoder",
                            "init_args": {**CODEC, "weights": f"{folder}/{weights}.safetensors"}},
            "flow": {"prediction": "data"}, "sampling": {"steps": 1},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-5}},
            "evaluation": {"class_path": "scene4d.evaluation.grids.GridEvaluation", "init_args": {}},
        }},
        "data": {"class_path": "datamodules.SceneDataModule", "init_args": {
            "size": 32, "batch_size": 2, "num_workers": 0, "depth": False,
            "train": [source("objects"), source("static")], "val": [source("objects", random=False)]}},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 2, "log_every_n_steps": 1,
                    "enable_progress_bar": False, "num_sanity_val_steps": 0, "val_check_interval": 2,
                    "check_val_every_n_epoch": None, "default_root_dir": str(root), "callbacks": [
                        {"class_path": "callbacks.GridLogging"}]},
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "in.yaml").write_text(yaml.safe_dump(content))
    return str(root / "in.yaml")


def test_losses_and_pictures_are_those_of_encoding(folder, tmp_path, monkeypatch):
    pictures = main(["fit", "--config", config(folder, tmp_path / "pictures", latents=False)])
    wanted = {name: value for name, value in pictures.trainer.callback_metrics.items() if "loss" in name}
    assert {"train/loss", "val/loss_objects", "val/loss"} <= set(wanted)
    monkeypatch.setattr("scene4d.sample_pictures.decode_video", None)  # videos are not decoded
    found = main(["fit", "--config", config(folder, tmp_path / "latents", latents=True)])
    for name, value in wanted.items():
        torch.testing.assert_close(found.trainer.callback_metrics[name], value, rtol=2e-4, atol=0)


def test_sheets_show_what_the_latents_decode_to(folder, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(GridLogging, "show", lambda self, _, name, picture: shown.update({name: picture}))
    cli = main(["fit", "--config", config(folder, tmp_path, latents=True)])
    assert shown.keys() == {"train/objects", "train/static", "val/grid_objects"}
    assert all(picture.isfinite().all() and picture.std() > 0.02 for picture in shown.values())
    batch = next(iter(cli.trainer.train_dataloader))
    images = cli.model.generator.images(batch)
    assert images.shape == batch.images.shape and torch.equal(
        images, cli.model.generator.decode(batch.latents.float())
    )


def test_latents_of_another_autoencoder_are_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"latents of source '\w+' were made by autoencoder \w{16}, the model's"
    ):
        main(["fit", "--config", config(folder, tmp_path, latents=True, weights=1)])


def test_scores_and_predictions_need_pictures(folder, tmp_path):
    path = config(folder, tmp_path, latents=True)
    main(["fit", "--config", path])
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    with pytest.raises(
        ValueError, match="source 'objects' gives latents, scores and predictions need pictures"
    ):
        main(["validate", "--config", path, "--ckpt_path", checkpoint])
    predict = yaml.safe_load((tmp_path / "in.yaml").read_text())
    predict["data"]["init_args"]["predict"] = predict["data"]["init_args"].pop("val")
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(predict))
    with pytest.raises(
        ValueError, match="source 'objects' gives latents, scores and predictions need pictures"
    ):
        main(["predict", "--config", path, "--ckpt_path", checkpoint])
