"""The strategy fsdp2 on one rank: checkpoints of every kind, in the background too, exports, and refusals."""

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from sharded_cases import GLOBAL, Batches, grid, module
from torch.distributed.tensor import DTensor

from callbacks import FSDP2, ExponentialMovingAverage, LastCheckpoint, WeightsExport
from callbacks.checkpoint_files import WholeCheckpoints, newest_checkpoint, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Lightning leaves the process group of a run to the next one."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def fit(folder, *callbacks, steps=4, strategy=None, resumed=None, precision="32-true"):
    trainer = L.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", devices=1, strategy=strategy or FSDP2(),
        callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False, logger=False,
        enable_checkpointing=bool(callbacks), use_distributed_sampler=False, precision=precision,
        plugins=[LightningEnvironment(), WholeCheckpoints()], accumulate_grad_batches=GLOBAL,
    )  # fmt: skip
    made = module("diffusion", {})
    made.hparams.clear()
    trainer.fit(made, Batches(grid, trainer), ckpt_path=resumed)
    return made


@pytest.mark.parametrize("background", [False, True])
def test_the_last_checkpoints_and_the_best_are_folders(tmp_path, background):
    best = ModelCheckpoint(tmp_path / "best", save_top_k=2, every_n_train_steps=1, monitor="step", mode="max")
    callbacks = (LastCheckpoint(every_n_train_steps=1), best, ExponentialMovingAverage(0.5))
    made = fit(tmp_path, *callbacks, strategy=FSDP2(background_saves=background))
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        "epoch=0-step=3.ckpt",
        "epoch=0-step=4.ckpt",
    ]
    last = newest_checkpoint([tmp_path / "checkpoints"])
    assert last == tmp_path / "checkpoints/last.ckpt" and len(list(last.iterdir())) == 2
    found = read_checkpoint(last, mapped=False)
    weights = {name: value for name, value in found["state_dict"].items() if name.startswith("network.")}
    assert found["global_step"] == 4 and weights
    for name, parameter in made.network.named_parameters():
        assert isinstance(parameter, DTensor)
        assert torch.equal(weights[f"network.{name}"], parameter.full_tensor()), name
    averages = found["callbacks"]["ExponentialMovingAverage"]["averages"]
    assert averages.keys() == {f"network.{name}" for name, _ in made.network.named_parameters()}


def test_a_file_of_one_device_and_a_folder_follow_each_other(tmp_path):
    """The run that goes on keeps what it has gone on from."""
    whole = fit(tmp_path / "whole", steps=6, strategy="auto")
    fit(tmp_path, LastCheckpoint(), steps=2, strategy="auto")
    file = tmp_path / "checkpoints/last.ckpt"
    fit(tmp_path, LastCheckpoint(), steps=4, resumed=str(file))
    folder = tmp_path / "checkpoints/last-v1.ckpt"
    assert file.is_file() and folder.is_dir() and newest_checkpoint([file.parent]) == folder
    dist.destroy_process_group()
    made = fit(tmp_path, LastCheckpoint(), WeightsExport("weights.safetensors"), steps=6, strategy="auto",
               resumed=str(folder))  # fmt: skip
    assert newest_checkpoint([file.parent]).name == "last-v2.ckpt"
    exported = load_file(tmp_path / "weights.safetensors")
    for name, value in whole.network.named_parameters():
        torch.testing.assert_close(exported[name], value, rtol=1e-3, atol=1e-5)  # Adam enlarges rounding
        assert torch.equal(exported[name], made.network.get_parameter(name))


def test_half_precision_computes_and_keeps_float32(tmp_path):
    made = fit(tmp_path, WeightsExport("weights.safetensors"), precision="bf16-mixed")
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}
    assert all(x.isfinite().all() for x in load_file(tmp_path / "weights.safetensors").values())


@pytest.mark.parametrize("replicas, message", [
    (0, "replicas must be at least 1, got 0"),
    (2, "replicas 2 must divide the number of ranks, which is 1"),
])  # fmt: skip
def test_impossible_numbers_of_copies_are_refused(tmp_path, replicas, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, strategy=FSDP2(replicas=replicas))


def test_addresses_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fsdp2 writes to folders, not to addresses"):
        fit(tmp_path, resumed="s3://bucket/last.ckpt")
