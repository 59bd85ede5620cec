"""A training that has diverged stops, says where, and leaves nothing spoilt behind."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks import ExponentialMovingAverage, WeightsExport
from lightning_modules.checkpoint_contents import checkpoint_tensors
from lightning_modules.training import Training
from scene4d.types import SceneBatch


class Network(nn.Linear):
    blocks, has_weights, optional_weights, unused_weights = (), True, (), ()

    def __init__(self):
        super().__init__(1, 1)


class Faulty(Training):
    """Its loss or its gradient is not finite from one optimizer step on, or in one alone."""

    def __init__(self, fault="none", steps=(), lr=0.01, initial_weights=()):
        super().__init__(Network, lambda p: torch.optim.SGD(p, lr=lr), None, list(initial_weights), [".*"])
        self.fault, self.steps, self.given = fault, steps, 0

    def training_step(self, batch, index):
        self.given += 1
        loss = self.network(batch.images.mean().view(1)).square().sum()
        if self.given in self.steps:
            loss = (
                loss * float("nan") if self.fault == "loss" else loss + (self.network.weight * 0).sqrt().sum()
            )
        return loss

    def validation_step(self, batch, index):
        pass

    predict_step = validation_step


def scenes(count=40):
    def batch(keys):
        images = torch.ones(len(keys), 1, 1, 3, 2, 2)
        return SceneBatch(images, None, torch.zeros(len(keys), 1), torch.zeros(len(keys), 1, 1, dtype=torch.bool),
                          ["objects"] * len(keys), [f"s{key}" for key in keys])  # fmt: skip

    return DataLoader(range(count), batch_size=2, collate_fn=batch)


def trainer(folder, *callbacks, steps=10, **options):
    saving = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    options = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False} | options
    return L.Trainer(
        default_root_dir=folder, max_steps=steps, enable_model_summary=False,
        callbacks=[ExponentialMovingAverage(), saving, WeightsExport("weights.safetensors"), *callbacks], **options,
    )  # fmt: skip


def finite(weights):
    return all(bool(value.isfinite().all()) for value in weights.values())


def last_good(folder):
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert finite(checkpoint_tensors(content)) and len(checkpoint_tensors(content)) == 4
    return content["global_step"]


@pytest.mark.parametrize("fault, said", [
    ("loss", "the loss is not finite"), ("gradient", "the gradient is not finite, though the loss is"),
])  # fmt: skip
def test_it_stops_at_the_step_and_the_last_good_checkpoint_stays(tmp_path, fault, said):
    module = Faulty(fault, steps=range(4, 100))
    with pytest.raises(ValueError) as error:
        trainer(tmp_path).fit(module, scenes())
    text = str(error.value)
    assert f"diverged at step 4: {said} (objects/s6, objects/s7); " in text and "lower learning rate" in text
    assert "\n" not in text
    assert last_good(tmp_path) == 3
    assert not (tmp_path / "weights.safetensors").exists()
    assert finite(dict(module.named_parameters()))  # the optimizer never took the step


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    with pytest.raises(ValueError, match=r"diverged at step \d: "):
        trainer(tmp_path).fit(Faulty(lr=1e30), scenes())
    assert last_good(tmp_path) >= 1
    assert not (tmp_path / "weights.safetensors").exists()


def test_every_batch_of_an_accumulated_step_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"step 2: .* \(objects/s4, objects/s5, objects/s6, objects/s7\)"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(Faulty("loss", steps=[3]), scenes())


def test_steps_that_a_gradient_scaler_skips_are_no_divergence(tmp_path):
    plugin = lambda: MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))  # noqa: E731
    module = Faulty("gradient", steps=[2, 3, 7])
    trainer(tmp_path / "a", plugins=plugin()).fit(module, scenes())
    assert finite(load_file(tmp_path / "a" / "weights.safetensors"))
    module = Faulty("gradient", steps=range(5, 1000))
    with pytest.raises(ValueError, match="diverged at step 25: the gradient"):
        trainer(tmp_path / "b", plugins=plugin(), steps=50).fit(module, scenes(1000))


class Spoil(L.Callback):
    """Makes a weight NaN behind the optimizer's back, as a GPU that answers late does."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            pl_module.network.weight.data.fill_(float("nan"))


def test_spoilt_weights_are_neither_saved_nor_exported(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint is written: .* 'network.weight'"):
        trainer(tmp_path, Spoil()).fit(Faulty(), scenes())
    assert last_good(tmp_path) == 2
    module = Faulty()
    fit = L.Trainer(default_root_dir=tmp_path, max_steps=3, logger=False, enable_checkpointing=False,
                    accelerator="cpu", enable_progress_bar=False,
                    callbacks=[Spoil(), WeightsExport("weights.safetensors")])  # fmt: skip
    with pytest.raises(ValueError, match="weights.safetensors is not written: 1 of 2 tensors .* 'weight'"):
        fit.fit(module, scenes())
    assert not (tmp_path / "weights.safetensors").exists()


def test_weights_that_float16_cannot_hold_are_not_exported(tmp_path):
    module = Faulty()
    module.configure_model()
    module.network.weight.data.fill_(1e5)
    run = L.Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu")
    with pytest.raises(ValueError, match="is not written in float16: "):
        WeightsExport("weights.safetensors", half=True).export(run, module)


@pytest.mark.parametrize("command", ["fit", "predict"])
@pytest.mark.parametrize("part", ["state_dict", "callbacks"])
def test_spoilt_checkpoints_are_not_loaded(tmp_path, command, part):
    trainer(tmp_path, steps=2).fit(Faulty(), scenes())
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    tensors = content[part]
    if part == "callbacks":
        tensors = next(state["averages"] for state in tensors.values() if "averages" in state)
    tensors["network.weight"].fill_(float("inf"))
    torch.save(content, tmp_path / "spoilt.ckpt")
    with pytest.raises(ValueError, match="'.*spoilt.ckpt' is of no use: 1 of .*network.weight'"):
        getattr(trainer(tmp_path), command)(Faulty(), scenes(), ckpt_path=tmp_path / "spoilt.ckpt")


def test_spoilt_weight_files_are_not_loaded(tmp_path):
    path = str(tmp_path / "spoilt.safetensors")
    save_file({"weight": torch.full((1, 1), torch.nan), "bias": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match="spoilt.safetensors' is spoilt: 1 of 2 tensors hold NaN .* 'weight'"
    ):
        Faulty(initial_weights=[path]).configure_model()


def test_learning_rate_and_gradient_norm_are_logged(tmp_path):
    logger, logged = CSVLogger(tmp_path), []
    logger.log_metrics = lambda metrics, step=None: logged.append({**metrics, "step": step})
    run = trainer(tmp_path, steps=6, logger=logger, log_every_n_steps=3, gradient_clip_val=1e-3)
    module = Faulty()
    module.configure_model()
    weight, bias = module.network.weight.item(), module.network.bias.item()
    run.fit(module, scenes())
    rows = [row for row in logged if "train/gradient_norm" in row]
    assert [row["step"] for row in rows] == [2, 5] and rows[0]["train/learning_rate"] == 0.01
    # d/dw (w + b)^2 = d/db = 2 (w + b), before it is clipped; the two steps before moved by 1e-5 each
    assert rows[0]["train/gradient_norm"] == pytest.approx(2 * 2**0.5 * abs(weight + bias), rel=1e-3)


def test_without_an_interval_nothing_is_logged(tmp_path):
    logger, logged = CSVLogger(tmp_path), []
    logger.log_metrics = lambda metrics, step=None: logged.append(metrics)
    trainer(tmp_path, steps=2, logger=logger, log_every_n_steps=0).fit(Faulty(), scenes())
    assert not any("train/gradient_norm" in metrics for metrics in logged)


@pytest.mark.parametrize("strategy", ["ModelParallelStrategy", "FSDPStrategy"])
def test_strategies_whose_ranks_would_train_apart_are_refused(strategy):
    module, made = Faulty(), type(strategy, (), {})()
    module._trainer = type("T", (), {"strategy": made, "precision": "32-true"})()
    with pytest.raises(
        ValueError, match=f"strategy is {strategy}, which is not supported; use auto, ddp or fsdp2"
    ):
        module.setup("fit")
