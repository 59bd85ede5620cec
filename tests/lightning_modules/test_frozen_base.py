"""Checkpoints leave out the frozen base that files gave, and go on that base alone."""

import re
from functools import partial

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks import ExponentialMovingAverage, WeightsExport
from callbacks.checkpoint_files import WholeCheckpoints
from lightning_modules.frozen_base import fingerprint
from lightning_modules.training import Training
from scene4d.networks.pretrained import BASE, load_weights, read_weights


class Network(nn.Module):
    """A large base, a small head, and a part that no base has."""

    blocks, unused_weights = (), ()

    def __init__(self, weights=None, dtype=torch.float32, bias=True):
        super().__init__()
        self.base, self.head = nn.Linear(32, 32, bias=bias, dtype=dtype), nn.Linear(32, 1)
        self.new = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.has_weights = weights is not None
        if weights is not None:
            load_weights(self, weights, optional=("",))

    @property
    def optional_weights(self):
        return ("",) if self.has_weights else self.new_weights

    @property
    def new_weights(self):
        return ["new.weight", "new.bias"]

    def forward(self, x):
        return self.new(self.head(self.base(x.to(self.base.weight.dtype)).float()))


class Model(Training):
    """Regression on constants."""

    def __init__(self, network=Network, initial_weights=(), trainable=("head",)):
        super().__init__(network, partial(torch.optim.AdamW, lr=0.1), None, initial_weights, list(trainable))
        self.save_hyperparameters(ignore=["network"] if network is Network else [])

    def training_step(self, batch, index):
        return (self.network(batch) - batch.sum()).square().mean()

    def validation_step(self, batch, index):
        self.log("val/loss", self.network(batch).mean())


def trainer(root, steps, *callbacks):
    return L.Trainer(accelerator="cpu", max_steps=steps, default_root_dir=root, logger=False, callbacks=list(callbacks),
                     enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                     limit_val_batches=0, plugins=[WholeCheckpoints()])  # fmt: skip


def data():
    return DataLoader([torch.full((32,), k / 8) for k in range(8)], batch_size=2)


def weights_file(path, seed=0):
    torch.manual_seed(seed)
    save_file(Network().state_dict(), path)
    return str(path)


def fit(module, root, steps=2, ckpt_path=None, callbacks=()):
    runs = trainer(root, steps, *callbacks)
    runs.fit(module, data(), ckpt_path=ckpt_path, weights_only=None)
    runs.save_checkpoint(root / "a.ckpt")
    return root / "a.ckpt"


def content(path):
    return torch.load(path, weights_only=False)


@pytest.fixture
def base(tmp_path):
    return weights_file(tmp_path / "base.safetensors")


TRAINED = {"network.head.weight", "network.head.bias"}
FROZEN = {"network.base.weight", "network.base.bias"}
NEW = {"network.new.weight", "network.new.bias"}


def test_only_what_no_file_gave_or_what_trains_is_written(tmp_path, base):
    given = content(fit(Model(initial_weights=[base]), tmp_path))
    assert set(given["state_dict"]) == TRAINED | {"network.mean"}
    assert set(given[BASE]["names"]) == FROZEN | NEW and given[BASE]["sources"] == [base]
    own = content(fit(Model(partial(Network, weights=base)), tmp_path))
    assert set(own["state_dict"]) == TRAINED | NEW | {"network.mean"}  # `new` may be random
    assert own[BASE]["sources"] == [base] and set(own[BASE]["names"]) == FROZEN
    nothing = content(fit(Model(), tmp_path))
    assert BASE not in nothing and set(nothing["state_dict"]) == TRAINED | FROZEN | NEW | {"network.mean"}


def test_a_resumed_run_repeats_the_bits_with_averages_and_exports(tmp_path, base):
    def callbacks():
        return [ExponentialMovingAverage(0.5), WeightsExport("whole.safetensors")]

    (tmp_path / "whole").mkdir()
    (tmp_path / "half").mkdir()
    whole = content(fit(Model(initial_weights=[base]), tmp_path / "whole", 8, callbacks=callbacks()))
    half = fit(Model(initial_weights=[base]), tmp_path / "half", 4, callbacks=callbacks())
    again = content(fit(Model(initial_weights=[base]), tmp_path / "half", 8, str(half), callbacks()))
    assert all(torch.equal(whole["state_dict"][name], x) for name, x in again["state_dict"].items())
    assert whole[BASE] == again[BASE]
    exported = [load_file(tmp_path / name / "whole.safetensors") for name in ("whole", "half")]
    assert exported[0].keys() == Network().state_dict().keys()
    assert all(torch.equal(exported[0][name], x) for name, x in exported[1].items())
    assert torch.equal(exported[0]["base.weight"], load_file(base)["base.weight"])


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_another_base_is_one_line_that_names_both(tmp_path, base, command):
    path = fit(Model(initial_weights=[base]), tmp_path)
    other = weights_file(tmp_path / "other.safetensors", seed=1)
    recorded = content(path)[BASE]["fingerprint"]
    message = rf"a.ckpt' belongs on the base {re.escape(base)} \({recorded}\), this run has {re.escape(other)} \([0-9a-f]{{16}}\)"
    with pytest.raises(ValueError, match=message) as error:
        getattr(trainer(tmp_path, 4), command)(Model(initial_weights=[other]), data(), ckpt_path=str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="this run has of no file"):
        getattr(trainer(tmp_path, 4), command)(Model(), data(), ckpt_path=str(path))


def test_the_same_base_elsewhere_and_in_another_type_is_the_same(tmp_path, base):
    path = fit(Model(partial(Network, base)), tmp_path)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(open(base, "rb").read())
    model = Model(partial(Network, str(moved), dtype=torch.bfloat16))
    trainer(tmp_path, 4).validate(model, data(), ckpt_path=str(path), weights_only=False)
    assert torch.equal(model.network.head.weight, content(path)["state_dict"]["network.head.weight"])


def test_evaluation_may_call_other_parameters_trainable(tmp_path, base):
    path = fit(Model(initial_weights=[base]), tmp_path)
    model = Model(initial_weights=[base], trainable=[".*"])
    trainer(tmp_path, 4).validate(model, data(), ckpt_path=str(path), weights_only=False)
    assert torch.equal(model.network.head.weight, content(path)["state_dict"]["network.head.weight"])


def test_another_architecture_is_still_said_by_strict_loading(tmp_path, base):
    path = fit(Model(initial_weights=[base]), tmp_path)
    state = content(path)
    state["state_dict"]["network.head.weight"] = torch.zeros(1, 7)
    torch.save(state, path)
    with pytest.raises(RuntimeError, match="size mismatch for network.head.weight"):
        trainer(tmp_path, 4).validate(Model(initial_weights=[base]), data(), ckpt_path=str(path), weights_only=False)


def old_checkpoint(path, weights):
    """What was written before: everything, and no record of a base."""
    state = content(path)
    del state[BASE]
    state["state_dict"] |= {f"network.{name}": x for name, x in weights.items() if f"network.{name}" not in TRAINED}
    torch.save(state, path)


@pytest.mark.parametrize("same", [True, False])
def test_old_checkpoints_hold_everything_and_keep_it(tmp_path, base, same):
    """One whose frozen values are not those of the files goes on holding them: no config gives them."""
    path = fit(Model(initial_weights=[base]), tmp_path)
    held = load_file(base) if same else load_file(weights_file(tmp_path / "other.safetensors", seed=1))
    old_checkpoint(path, held)
    model = Model(initial_weights=[base])
    after = content(fit(model, tmp_path, 4, str(path)))
    assert torch.equal(model.network.base.weight, held["base.weight"])
    assert (FROZEN | NEW <= after["state_dict"].keys()) == (not same)
    assert (BASE in after) == same


def test_a_partial_checkpoint_is_a_partial_weights_file(tmp_path, base):
    path = fit(Model(initial_weights=[base]), tmp_path)
    model = Model(initial_weights=[base, str(path)])
    model.configure_model()
    assert torch.equal(model.network.head.weight, read_weights(path)["head.weight"])
    message = rf"a.ckpt: the checkpoint holds only what trained, 'base.weight' is missing; .* {re.escape(base)} \("
    with pytest.raises(ValueError, match=message):
        Model(initial_weights=[str(path)]).configure_model()


def test_a_fingerprint_depends_on_names_shapes_and_values_not_on_the_type():
    values = torch.randn(300, 70)
    given = fingerprint([("a", values), ("b", values[0])])
    assert given == fingerprint([("b", values[0].bfloat16()), ("a", values.bfloat16())])
    changed = values.clone()
    changed[150:] += 1
    others = [[("a", values), ("c", values[0])], [("a", values.T), ("b", values[0])], [("a", changed), ("b", values[0])]]
    assert given not in map(fingerprint, others) and len({*map(fingerprint, others)}) == 3
    assert fingerprint([]) == fingerprint([])
