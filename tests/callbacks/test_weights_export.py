"""Exported weights: which, averaged or not, and what the header says."""

import lightning as L
import pytest
import torch
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


def fit(folder, module, *callbacks) -> L.Trainer:
    trainer = L.Trainer(
        default_root_dir=folder, max_steps=3, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.randn(12, 3), batch_size=4))
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


def test_every_checkpoint_exports(tmp_path):
    path = tmp_path / "w.safetensors"
    trainer = fit(tmp_path, Small(), WeightsExport(str(path)))
    path.unlink()
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert header(path)["step"] == "3"


def test_unknown_network_is_named(tmp_path):
    with pytest.raises(ValueError, match="Small has no network 'encoder'"):
        fit(tmp_path, Small(), WeightsExport(str(tmp_path / "w.safetensors"), module="encoder"))
