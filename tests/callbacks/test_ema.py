"""The moving average: its values, the swap around evaluation, and bitwise resumption."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.ema import ExponentialMovingAverage


class Line(L.LightningModule):
    """A tiny network, half of it frozen; records the weights that evaluation sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1)
        self.network.bias.requires_grad_(False)
        self.seen: list[torch.Tensor] = []
        self.results: dict = {}

    def training_step(self, batch, index):
        return (self.network(batch) - batch.sum(1, keepdim=True)).square().mean()

    def validation_step(self, batch, index):
        self.seen.append(self.network.weight.detach().clone())

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam([self.network.weight], lr=0.1)


def loader(n: int = 8) -> DataLoader:
    data = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    return DataLoader(data, batch_size=1)


def trainer(folder, steps: int, *callbacks, accumulate: int = 1, **options) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, max_steps=steps, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        num_sanity_val_steps=0, accumulate_grad_batches=accumulate, **options,
    )  # fmt: skip


class Record(L.Callback):
    """The weights after every optimizer step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        self.weights.append(pl_module.network.weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.weights):
            self.weights.append(pl_module.network.weight.detach().clone())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_follow_the_formula(tmp_path, accumulate):
    record, ema, module = Record(), ExponentialMovingAverage(decay=0.3), Line()
    trainer(tmp_path, 4, record, ema, accumulate=accumulate).fit(module, loader())
    expected = record.weights[0]
    for n, weights in enumerate(record.weights[1:]):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weights
    assert ema.updates == 4 and list(ema.averages) == ["network.weight"]
    torch.testing.assert_close(ema.averages["network.weight"], expected)


def test_validation_sees_averages_and_training_does_not(tmp_path):
    record, ema, module = Record(), ExponentialMovingAverage(decay=0.9), Line()
    fit = trainer(tmp_path, 4, record, ema, val_check_interval=4, limit_val_batches=1)
    fit.fit(module, loader(4), loader(1))
    assert torch.equal(module.seen[0], ema.averages["network.weight"])
    assert torch.equal(module.network.weight, record.weights[-1])
    assert not torch.equal(module.seen[0], record.weights[-1])
    plain = Record()
    trainer(tmp_path, 4, plain).fit(Line(), loader(4))
    assert torch.equal(plain.weights[-1], record.weights[-1])  # averaging changes no training bit


def test_resume_is_bitwise_equal(tmp_path):
    whole, half, rest = (ExponentialMovingAverage(decay=0.5) for _ in range(3))
    same = DataLoader(loader().dataset[:1].expand(8, 3), batch_size=1)  # the order of batches plays no part
    trainer(tmp_path, 6, whole).fit(Line(), same)
    first = trainer(tmp_path, 3, half)
    first.fit(Line(), same)
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, 6, rest).fit(Line(), same, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert rest.updates == whole.updates == 6
    assert torch.equal(rest.averages["network.weight"], whole.averages["network.weight"])


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_of_a_checkpoint_uses_its_averages(tmp_path, stage):
    ema = ExponentialMovingAverage(decay=0.5)
    fit = trainer(tmp_path, 3, ema)
    fit.fit(Line(), loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    module, again = Line(), trainer(tmp_path, 3, ExponentialMovingAverage())
    getattr(again, stage)(module, loader(1), ckpt_path=tmp_path / "x.ckpt")
    assert torch.equal(module.seen[0], ema.averages["network.weight"])


def test_interrupted_validation_puts_the_weights_back(tmp_path):
    class Failing(Line):
        def validation_step(self, batch, index):
            raise RuntimeError("stop here")

    record, module = Record(), Failing()
    fit = trainer(tmp_path, 4, record, ExponentialMovingAverage(0.9), val_check_interval=4)
    with pytest.raises(RuntimeError, match="stop here"):
        fit.fit(module, loader(4), loader(1))
    assert torch.equal(module.network.weight, record.weights[-1])


class SaveAround(L.Callback):
    """Saves right before the averages take the parameters' place, and again while they are there."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def on_validation_start(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "before.ckpt")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        trainer.save_checkpoint(self.folder / "inside.ckpt")
        trainer.save_checkpoint(self.folder / "weights.ckpt", weights_only=True)


def test_a_checkpoint_saved_during_validation_holds_the_trained_values(tmp_path):
    ema, module = ExponentialMovingAverage(decay=0.9), Line()
    fit = trainer(tmp_path, 4, SaveAround(tmp_path), ema, val_check_interval=4, limit_val_batches=1)
    fit.fit(module, loader(4), loader(1))
    before, inside, weights = (
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("before", "inside", "weights")
    )
    seen, trained = module.seen[0], before["state_dict"]["network.weight"]
    assert not torch.equal(seen, trained)  # validation did see the averages, also after the save
    for part in ("state_dict", "callbacks", "optimizer_states"):
        torch.testing.assert_close(inside[part], before[part], rtol=0, atol=0)
    assert torch.equal(weights["state_dict"]["network.weight"], trained)
    averages = next(state["averages"] for state in inside["callbacks"].values() if "averages" in state)
    assert torch.equal(averages["network.weight"], seen)
    assert torch.equal(module.network.weight, trained)


def test_training_goes_on_from_a_checkpoint_saved_during_validation(tmp_path):
    same = DataLoader(loader().dataset[:1].expand(8, 3), batch_size=1)
    found = []
    for name in ("before", "inside"):
        ema, module = ExponentialMovingAverage(decay=0.9), Line()
        fit = trainer(tmp_path, 4, SaveAround(tmp_path), ema, val_check_interval=4, limit_val_batches=1)
        fit.fit(Line(), same, loader(1))
        trainer(tmp_path, 6, ema).fit(module, same, ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
        found.append((module.network.weight, ema.averages["network.weight"], ema.updates))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0][:2], found[1][:2]))
    assert found[0][2] == found[1][2] == 6


def test_other_trainable_parameters_are_an_error(tmp_path):
    fit = trainer(tmp_path, 1, ExponentialMovingAverage())
    fit.fit(Line(), loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    other = Line()
    other.network.bias.requires_grad_(True)
    with pytest.raises(ValueError, match="first in 'network.bias'"):
        trainer(tmp_path, 2, ExponentialMovingAverage()).fit(other, loader(), ckpt_path=tmp_path / "x.ckpt")


def test_a_checkpoint_without_averages_is_not_judged_by_earlier_ones(tmp_path):
    ema, module = ExponentialMovingAverage(), Line()
    fit = trainer(tmp_path, 3, ema)
    fit.fit(module, loader())
    plain = trainer(tmp_path, 3)
    plain.fit(Line(), loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    fit.validate(module, loader(1), ckpt_path=tmp_path / "plain.ckpt", weights_only=True, verbose=False)
    assert ema.averages == {} and ema.updates == 0
    trained = torch.load(tmp_path / "plain.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(module.network.weight, trained["network.weight"])


def test_decay_out_of_range():
    with pytest.raises(ValueError, match="got 1.5"):
        ExponentialMovingAverage(1.5)
