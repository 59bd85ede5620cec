"""Exported weights: which, averaged or not, and what the header says."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks.ema import ExponentialMovingAverage
from callbacks.weights_export import WeightsExport, config_hash


class Small(L.LightningModule):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.network[0].bias.requires_grad_(False)

    def training_step(self, batch, index):
        return (self.network(batch) - batch[:, :1]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)


def fit(folder, module, *callbacks, ckpt_path=None) -> L.Trainer:
    checkpoints = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    trainer = L.Trainer(
        default_root_dir=folder, max_steps=3, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=checkpoints,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.randn(12, 3), batch_size=4), ckpt_path=ckpt_path)
    return trainer


def header(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_full_weights_load_into_the_network(tmp_path):
    module, path = Small(), tmp_path / "new" / "w.safetensors"
    fit(tmp_path, module, WeightsExport(str(path)))
    other = Small()
    other.network.load_state_dict(load_file(path))
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.network.state_dict().values(), other.network.state_dict().values())
    )
    assert header(path) == {
        "step": "3", "config_hash": config_hash(module), "averaged": "false", "trainable_only": "false",
    }  # fmt: skip
    assert config_hash(Small(3)) != config_hash(module)


def test_trainable_only_averaged_and_half(tmp_path):
    module, path, ema = Small(), tmp_path / "w.safetensors", ExponentialMovingAverage(0.9)
    fit(tmp_path, module, ema, WeightsExport(str(path), trainable_only=True, half=True))
    state = load_file(path)
    assert set(state) == {"0.weight", "1.weight", "1.bias"}
    assert torch.equal(state["0.weight"], ema.averages["network.0.weight"].half())
    assert not torch.equal(state["0.weight"], module.network[0].weight.half())
    assert header(path)["averaged"] == "true"


class Interrupted(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            raise RuntimeError("interrupted")


def test_an_interrupted_run_exports_nothing(tmp_path):
    path, saves = tmp_path / "w.safetensors", ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, Small(), saves, WeightsExport(str(path)), Interrupted())
    assert (tmp_path / "last.ckpt").is_file() and not path.exists()


@pytest.mark.parametrize("first", ["average", "export"])
def test_a_finished_run_that_is_resumed_exports_again(tmp_path, first):
    path, saves = tmp_path / "w.safetensors", ModelCheckpoint(tmp_path, every_n_train_steps=3, save_last=True)

    def again(ckpt_path=None) -> dict[str, torch.Tensor]:
        callbacks = [ExponentialMovingAverage(0.9), WeightsExport(str(path), trainable_only=True)]
        ordered = callbacks if first == "average" else callbacks[::-1]
        fit(tmp_path, Small(), *ordered, saves, ckpt_path=ckpt_path)
        return load_file(path)

    whole, finished = again(), header(path)
    path.unlink()
    resumed = again(tmp_path / "last.ckpt")
    assert header(path) == finished and finished["averaged"] == "true" and finished["step"] == "3"
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_unknown_network_is_named(tmp_path):
    with pytest.raises(ValueError, match="Small has no network 'encoder'"):
        fit(tmp_path, Small(), WeightsExport(str(tmp_path / "w.safetensors"), module="encoder"))
