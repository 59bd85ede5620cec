"""The console says what matters: no advertisement, no option repeated, one line per network."""

import logging
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import DataLoader

from callbacks.console import RunSummary, StepBar, calm_console, network_line, with_console
from callbacks.sampling_progress import SamplingProgress


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 1)
        self.network.bias.requires_grad_(False)

    def training_step(self, batch, index):
        return self.network(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD([self.network.weight], lr=0.1)


def loader() -> DataLoader:
    return DataLoader(torch.ones(8, 3), batch_size=1)


@pytest.fixture
def calm():
    """Everything that `calm_console` changes is put back."""
    names = (
        "lightning.pytorch",
        "lightning.fabric",
        "callbacks",
        "datamodules",
        "lightning_modules",
        "scene4d",
    )
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    calm_console()
    calm_console()  # once is enough
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


def test_a_run_prints_what_trains_and_nothing_of_lightning(calm, tmp_path, capfd, caplog):
    def trainer(steps: int) -> L.Trainer:
        return L.Trainer(
            default_root_dir=tmp_path, max_steps=steps, callbacks=[RunSummary()], accelerator="cpu", logger=True,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip

    first = trainer(2)
    first.fit(Line(), loader())
    first.save_checkpoint(tmp_path / "x.ckpt")
    rank_zero_info("try installing our other product")
    logging.getLogger("lightning.pytorch.loops").warning("the disk is full")
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [
        "Line on 1 x cpu, precision 32-true",
        "  network      Linear                   4 parameters, 3 train",
    ]
    assert caplog.messages[-1] == "the disk is full"
    assert "product" not in caplog.text and "litlogger" not in caplog.text and "GPU" not in caplog.text
    trainer(3).fit(Line(), loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert capfd.readouterr().out.splitlines()[-1] == f"goes on after step 2, from {tmp_path / 'x.ckpt'}"


def test_our_messages_come_once_and_from_rank_0_only(calm, capfd, monkeypatch):
    for rank in (0, 1):
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", rank)
        logging.getLogger("scene4d.x").info("news of rank %d", rank)
        logging.getLogger("scene4d.x").warning("trouble of rank %d", rank)
    assert capfd.readouterr().out.splitlines() == ["news of rank 0", "trouble of rank 0", "trouble of rank 1"]


@pytest.mark.parametrize("width, trainable, said", [
    (2000, True, "4 M parameters, all train"), (100, False, "10.1 K parameters, none trains"),
])  # fmt: skip
def test_networks_in_one_line(width, trainable, said):
    with torch.device("meta"):
        network = nn.Linear(width, width).requires_grad_(trainable)
    assert network_line("network", network).endswith(said)


def test_a_network_split_over_ranks_keeps_its_name():
    class FSDPLinear(nn.Linear):  # what FSDP2 makes of the class
        pass

    assert network_line("network", FSDPLinear(2, 2)).split()[1] == "Linear"


def kinds(callbacks: list[L.Callback]) -> list[type]:
    return [type(callback) for callback in callbacks]


def test_a_run_has_one_progress_bar_at_most():
    assert kinds(with_console(None, None)) == [RunSummary, StepBar, SamplingProgress]
    assert kinds(with_console([L.Callback()], True)) == [RunSummary, StepBar, SamplingProgress, L.Callback]
    assert kinds(with_console(L.Callback(), False)) == [RunSummary, L.Callback]
    for own in (RichProgressBar, TQDMProgressBar):
        assert kinds(with_console([own()], None)) == [RunSummary, SamplingProgress, own]


def test_the_bar_counts_steps():
    """A private name of Lightning's is overridden; this fails when it is gone."""
    assert "_get_train_description" in vars(RichProgressBar)
    assert StepBar()._get_train_description(0) == "Training"


def test_the_bar_of_a_resumed_run_counts_from_its_first_step():
    bar = StepBar()
    bar._trainer = SimpleNamespace(max_steps=16, accumulate_grad_batches=2, global_step=12, max_epochs=-1)
    assert bar.total_train_batches == 32
