"""Checkpoints leave out the frozen weights that files gave, and come back on that base alone."""

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.training import Training
from scene4d.networks.recorded_base import KEY, frozen_fingerprint


class Net(nn.Module):
    """A base, a part that no base has, and a head that trains."""

    blocks, has_weights, optional_weights, unused_weights = (), False, ("new",), ()

    def __init__(self):
        super().__init__()
        self.base, self.new, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)


class Module(Training):
    def __init__(self, files):
        super().__init__(Net, torch.optim.AdamW, None, files, ["head"])

    def training_step(self, batch, index):
        return self.network.head(self.network.new(self.network.base(batch))).square().mean()


def write_base(path, seed, names=("base", "head")):
    torch.manual_seed(seed)
    save_file({k: v for k, v in Net().state_dict().items() if k.startswith(names)}, path)
    return str(path)


def fit(root, files, steps, resume=None):
    torch.manual_seed(5)
    module = Module(files)
    trainer = L.Trainer(
        default_root_dir=root, max_steps=steps, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.ones(8, 4), batch_size=2), ckpt_path=resume)
    trainer.save_checkpoint(root / f"{steps}.ckpt")
    return module


@pytest.mark.filterwarnings("ignore")
def test_given_weights_are_left_out_random_ones_stay_and_resuming_is_exact(tmp_path):
    files = [write_base(tmp_path / "base.safetensors", 1)]
    whole = fit(tmp_path, files, 4)
    fit(tmp_path, files, 2)
    content = torch.load(tmp_path / "2.ckpt", weights_only=True)
    parts = {name.split(".")[1] for name in content["state_dict"]}
    assert parts == {"new", "head"} and content[KEY]["files"] == files
    assert content[KEY]["names"] == ["network.base.weight", "network.base.bias"]
    resumed = fit(tmp_path, files, 4, str(tmp_path / "2.ckpt"))
    assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), resumed.parameters()))


@pytest.mark.filterwarnings("ignore")
def test_another_base_is_one_line_that_names_both(tmp_path):
    one, other = (write_base(tmp_path / f"{k}.safetensors", k) for k in (1, 2))
    fit(tmp_path, [one], 2)
    with pytest.raises(
        ValueError, match=r"belongs on the base .*1\.safetensors \(\w{16}\), this run has .*2\.s"
    ):
        fit(tmp_path, [other], 4, str(tmp_path / "2.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_is_a_partial_weights_file(tmp_path):
    base, checkpoint = write_base(tmp_path / "base.safetensors", 1), str(tmp_path / "2.ckpt")
    trained = fit(tmp_path, [base], 2)
    module = Module([base, checkpoint])
    module.configure_model()
    assert all(torch.equal(x, y) for x, y in zip(trained.parameters(), module.parameters()))
    with pytest.raises(
        ValueError, match=r"'base.weight' is missing \(2 tensors\).* base .*base\.safetensors \("
    ):
        Module([checkpoint]).configure_model()


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_as_weights_file_belongs_on_its_base_too(tmp_path):
    """Alone among its files it would be scored, or trained on, over frozen weights that it has never seen."""
    one, other = (write_base(tmp_path / f"{k}.safetensors", k) for k in (1, 2))
    fit(tmp_path, [one], 2)
    with pytest.raises(
        ValueError, match=r"belongs on the base .*1\.safetensors \(\w{16}\), this run has .*2\.s"
    ):
        Module([other, str(tmp_path / "2.ckpt")]).configure_model()


@pytest.mark.filterwarnings("ignore")
def test_a_complete_checkpoint_loads_and_what_it_brought_is_saved_again(tmp_path):
    """As those of earlier versions: its values win over the file's, so that they must be kept."""
    one, other = (write_base(tmp_path / f"{k}.safetensors", k) for k in (1, 2))
    old = fit(tmp_path, [one], 2)
    content = torch.load(tmp_path / "2.ckpt", weights_only=True)
    del content[KEY]
    content["state_dict"] = old.state_dict()
    torch.save(content, tmp_path / "old.ckpt")
    fit(tmp_path, [other], 4, str(tmp_path / "old.ckpt"))
    again = torch.load(tmp_path / "4.ckpt", weights_only=True)
    assert KEY not in again
    assert torch.equal(again["state_dict"]["network.base.weight"], old.network.base.weight)


def test_the_fingerprint_depends_on_names_shapes_and_values_and_not_on_the_type():
    weights = {"a": torch.randn(100, 7).bfloat16().float()}
    own = frozen_fingerprint(weights)
    assert own == frozen_fingerprint({"a": weights["a"].bfloat16()}) and len(own) == 16
    others = {"b": weights["a"]}, {"a": weights["a"].reshape(7, 100)}, {"a": weights["a"] + 1}
    assert all(own != frozen_fingerprint(other) for other in others)
