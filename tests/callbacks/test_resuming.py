"""What a resumed run cannot change is said, and written nowhere as if it were true."""

import os
import re
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import yaml

from main import main, run
from scene4d.networks.pretrained import read_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["main.py"])


def tiny(command, root, *options):
    """A tiny autoencoder on the committed shards."""
    network = "--model.init_args.network.init_args"
    return [
        command, "--config", "configs/small/autoencoder.yaml", "--data", "configs/data/small_grid.yaml",
        f"{network}.width", "64", f"{network}.depth", "1", f"{network}.refinement", "0", "--trainer.max_steps", "2",
        "--trainer.limit_val_batches", "0", "--trainer.val_check_interval", "null", "--trainer.logger", "false",
        "--trainer.enable_progress_bar", "false", "--data.init_args.size", "16", "--data.init_args.num_workers", "0",
        "--data.init_args.val_batch_size", "1", "--trainer.default_root_dir", str(root),
        "--model.init_args.initial_weights", "[]", "--model.init_args.lr_scheduler.init_args.warmup_steps", "1",
        *options,
    ]  # fmt: skip


def told(*args):
    """The line that ends a run."""
    with pytest.raises(SystemExit) as end:
        run(list(args))
    assert "\n" not in str(end.value.code)
    return str(end.value.code).removeprefix("error: ")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        main(tiny("fit", root))
    return root / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same training's checkpoint by FSDP2, on one rank."""
    root = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        main(tiny("fit", root, "--trainer.strategy", "fsdp2"))
        dist.destroy_process_group()
    return root / "checkpoints/last.ckpt"


LR = "--model.init_args.optimizer.init_args.lr"
WARMUP = "--model.init_args.lr_scheduler.init_args.warmup_steps"


@pytest.mark.filterwarnings("ignore")
def test_another_rate_is_named_and_written_nowhere(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    given = [LR, "1e-5", "--trainer.max_steps", "4", WARMUP, "2"]
    cli = main(tiny("fit", tmp_path, "--ckpt_path", str(trained), *given))
    (optimizer,) = re.findall(r"the optimizer goes on as it was: (.*?);", caplog.text)
    assert (
        optimizer == "lr stays 0.001, not 1e-05" and "model.init_args.initial_weights instead" in caplog.text
    )
    assert (
        "the schedule changes from here on: warmup_steps is 2, it was 1, max_steps is 4, it was 2"
        in caplog.text
    )
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.001
    assert cli.trainer.global_step == 4 and cli.trainer.optimizers[0].param_groups[0]["initial_lr"] == 0.001


@pytest.mark.filterwarnings("ignore")
def test_the_same_settings_are_nothing_to_tell(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    main(tiny("fit", tmp_path, "--ckpt_path", str(trained)))
    assert "goes on as it was" not in caplog.text and "changes from here on" not in caplog.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options, line", [
    (["--model.init_args.trainable", "[^head_]"],
     r"the checkpoint trains \d+ parameter tensors \(trainable: \['\.\*'\]\), this run \d+ .*\^head_.*; for a new .*"),
    (["--model.init_args.optimizer", "torch.optim.SGD", LR, "0.1"],
     r"checkpoint '.*last.ckpt' was made by torch.optim.AdamW, not torch.optim.SGD; for a new optimizer, .*"),
    (["--ckpt_path", "nope/x.ckpt"], r"checkpoint 'nope/x.ckpt' does not exist \(in the working directory '.*'\)"),
])  # fmt: skip
def test_what_cannot_go_on_is_one_line(trained, tmp_path, options, line):
    found = told(*tiny("fit", tmp_path, "--ckpt_path", str(trained), *options))
    assert re.fullmatch(line, found), found


@pytest.mark.filterwarnings("ignore")
def test_last_falls_back_for_every_command(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(trained.read_bytes()[:5000])
    assert "is cut" in told(*tiny("validate", tmp_path, "--ckpt_path", "last"))
    (folder / "epoch=0-step=2.ckpt").write_bytes(trained.read_bytes())
    for command in ("validate", "fit"):
        cli = main(tiny(command, tmp_path, "--ckpt_path", "last", "--trainer.max_steps", "3"))
        assert cli.checkpoint == str(folder / "epoch=0-step=2.ckpt")
        assert "epoch=0-step=2.ckpt takes its place" in caplog.text
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.filterwarnings("ignore")
def test_last_of_a_new_folder_begins_with_one_line(tmp_path, caplog):
    caplog.set_level("INFO")
    cli = main(tiny("fit", tmp_path, "--ckpt_path", "last", "--trainer.max_steps", "2"))
    assert cli.trainer.global_step == 2
    assert "no checkpoint in" in caplog.text and "yet, training starts from the beginning" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_s_weights_start_a_run_with_a_new_optimizer(trained, tmp_path):
    options = ["--model.init_args.initial_weights", f"[{trained}]", LR, "1e-30", "--trainer.max_steps", "2"]
    cli = main(tiny("fit", tmp_path, *options))
    weights = torch.load(trained, weights_only=True)["state_dict"]
    for name, value in cli.model.named_parameters():
        assert torch.allclose(value, weights[name], atol=1e-20), name
    assert cli.trainer.optimizers[0].param_groups[0]["initial_lr"] == 1e-30


def test_averages_win_over_what_was_trained(tmp_path):
    content = {
        "pytorch-lightning_version": "2.6.6", "state_dict": {"network.a": torch.zeros(1), "network.b": torch.ones(1)},
        "callbacks": {"EMA": {"averages": {"network.a": torch.full((1,), 0.5)}}},
    }  # fmt: skip
    torch.save(content, tmp_path / "x.ckpt")
    assert read_weights(tmp_path / "x.ckpt") == {"a": torch.tensor([0.5]), "b": torch.tensor([1.0])}


@pytest.mark.filterwarnings("ignore")
def test_another_module_s_checkpoint_is_one_line_that_names_it(trained, tmp_path):
    options = [
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.logger",
        "false",
        "--trainer.callbacks",
        "[]",
    ]
    config = [
        "--config",
        "configs/small/shipped_reconstruction.yaml",
        "--config",
        "configs/evaluation/reconstruction.yaml",
    ]
    line = told(
        "validate", *config, *options, "--ckpt_path", str(trained), "--trainer.enable_progress_bar", "false"
    )
    assert line.startswith(f"{trained}: checkpoint of another architecture: 'network.")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # `run` leaves signals alone


@pytest.mark.filterwarnings("ignore")
def test_the_folder_of_many_ranks_passes_every_door_of_a_file(trained, folder, tmp_path, caplog):
    caplog.set_level("INFO")
    assert folder.is_dir() and trained.is_file()
    file, other = read_weights(trained), read_weights(folder)
    assert file.keys() == other.keys()
    assert all(torch.allclose(file[name], other[name], atol=1e-5) for name in file)
    main(tiny("validate", tmp_path, "--ckpt_path", str(folder)))
    given = ["--trainer.max_steps", "3", "--ckpt_path", str(folder), LR, "1e-5"]
    assert main(tiny("fit", tmp_path / "on", *given)).trainer.global_step == 3
    assert "lr stays 0.001, not 1e-05" in caplog.text
    new = ["--model.init_args.initial_weights", f"[{folder}]", LR, "0"]
    cli = main(tiny("fit", tmp_path / "new", *new))
    assert all(torch.equal(value, other[name]) for name, value in cli.model.network.named_parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_is_no_checkpoint_is_one_line(folder, tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    line = told(*tiny("fit", tmp_path, "--ckpt_path", str(tmp_path / "a.ckpt")))
    assert "a.ckpt' lacks state.ckpt: it was never completed, or is another folder" in line
    line = told(*tiny("fit", tmp_path, "--model.init_args.initial_weights", f"[{tmp_path / 'a.ckpt'}]"))
    assert "a.ckpt' holds neither model.safetensors nor model.pt" in line
    for path in folder.iterdir():
        (tmp_path / "a.ckpt" / path.name).write_bytes(
            path.read_bytes()[: 1000 if "-of-" in path.name else None]
        )
    line = told(*tiny("fit", tmp_path, "--model.init_args.initial_weights", f"[{tmp_path / 'a.ckpt'}]"))
    assert "weights file" in line and "is damaged or cut" in line
