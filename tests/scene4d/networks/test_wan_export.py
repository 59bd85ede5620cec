"""Trained weights on a base, in diffusers' layout: plain diffusers must load them whole."""

import json

import pytest
import torch
import yaml
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from test_wan import flat, inputs, make_pair

from scene4d.networks import WanGridTransformer
from scene4d.networks.wan import Sequential
from scene4d.networks.wan.export import export, main
from scene4d.networks.wan.lora import LoRA


@pytest.fixture
def base(tmp_path):
    _, plain = make_pair()
    plain.save_pretrained(tmp_path / "base/transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "base/transformer").glob("*.safetensors"))) > 1
    return tmp_path / "base"


def trained_part(base, path):
    """What `callbacks.WeightsExport` with `trainable_only` writes."""
    network = WanGridTransformer(pretrained=str(base), text_length=3)
    torch.manual_seed(5)
    part = {k: v + 0.1 * torch.randn_like(v) for k, v in network.state_dict().items() if ".attn1." in k}
    save_file(part, path)
    return part


def write_network(path, base, **options):
    path.write_text(
        yaml.safe_dump(
            {
                "class_path": "scene4d.networks.WanGridTransformer",
                "init_args": {"pretrained": str(base), "text_length": 3, **options},
            }
        )
    )


def test_plain_diffusers_loads_what_was_trained(base, tmp_path):
    part = trained_part(base, tmp_path / "part.safetensors")
    write_network(
        tmp_path / "network.yaml", base, dtype="bfloat16"
    )  # of the training: it must round nothing here
    arguments = ["--network", str(tmp_path / "network.yaml"), "--output", str(tmp_path / "out")]
    main([*arguments, "--weights", f"[{tmp_path}/part.safetensors]", "--shard_size", "20KB"])
    plain, info = WanTransformer3DModel.from_pretrained(
        tmp_path / "out", subfolder="transformer", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    untrained = WanTransformer3DModel.from_pretrained(base, subfolder="transformer").state_dict()
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, part.get(f"base.{name}", untrained[name])), name
    again = WanGridTransformer(pretrained=str(tmp_path / "out"), text_length=3)
    x, sigmas, text = inputs(1, 1, 3)
    expected = plain(flat(x), sigmas * 1000, text, return_dict=False)[0]
    assert torch.equal(flat(again(x, sigmas, text)), expected)


def test_wrong_input_writes_nothing(base, tmp_path):
    write_network(tmp_path / "network.yaml", base)
    save_file({"base.blocks.0.attn1.to_q.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    arguments = ["--network", str(tmp_path / "network.yaml"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="another architecture: 'base.blocks.0.attn1.to_q.weight'"):
        main([*arguments, "--weights", f"[{tmp_path}/other.safetensors]"])
    with pytest.raises(ValueError, match="Sequential has layers that diffusers does not know"):
        export(
            WanGridTransformer(pretrained=str(base), architecture=Sequential()), tmp_path / "out/transformer"
        )
    with pytest.raises(ValueError, match="no LoRA adapter"):
        export(WanGridTransformer(pretrained=str(base)), tmp_path / "out/transformer", adapter_only=True)
    assert not (tmp_path / "out").exists()


class TestLoRA:
    @pytest.fixture(autouse=True)
    def needs_peft(self):
        pytest.importorskip("peft")

    def network(self, base):
        network = WanGridTransformer(pretrained=str(base), text_length=3, adapter=LoRA(rank=2, alpha=4))
        return network

    def train(self, network):
        torch.manual_seed(6)
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)

    def test_before_training_nothing_changes_and_only_adapters_train(self, base):
        plain, adapted = WanGridTransformer(pretrained=str(base), text_length=3), self.network(base)
        x, sigmas, text = inputs(1, 2, 3)
        assert torch.equal(adapted(x, sigmas, text), plain(x, sigmas, text))
        assert adapted.default_trainable == [r"\.lora_[AB]\."]
        names = [name for name, _ in adapted.named_parameters() if ".lora_" in name]
        assert len(names) == 2 * 4 * 2  # blocks, layers, A and B

    def test_merged_weights_equal_the_adapted_network(self, base, tmp_path):
        network = self.network(base)
        self.train(network)
        x, sigmas, text = inputs(1, 2, 3)
        expected = network(x, sigmas, text)
        export(network, tmp_path / "out/transformer")
        _, info = WanTransformer3DModel.from_pretrained(
            tmp_path / "out", subfolder="transformer", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        merged = WanGridTransformer(pretrained=str(tmp_path / "out"), text_length=3)
        torch.testing.assert_close(merged(x, sigmas, text), expected, rtol=1e-4, atol=1e-5)

    def test_plain_diffusers_loads_the_adapter(self, base, tmp_path):
        network = self.network(base)
        self.train(network)
        export(network, tmp_path / "lora", adapter_only=True)
        (path,) = (tmp_path / "lora").glob("*.safetensors")
        assert all(".lora_" in name for name in load_file(path))
        plain = WanTransformer3DModel.from_pretrained(base, subfolder="transformer")
        plain.load_lora_adapter(str(tmp_path / "lora"), prefix=None, weight_name=path.name)
        x, sigmas, text = inputs(1, 1, 3)
        expected = flat(network(x, sigmas, text))
        torch.testing.assert_close(
            plain(flat(x), sigmas * 1000, text, return_dict=False)[0], expected, rtol=1e-4, atol=1e-5
        )

    def test_adapters_need_a_trained_base(self):
        with pytest.raises(ValueError, match="give its folder or hub id as pretrained"):
            WanGridTransformer(adapter=LoRA())


def test_config_of_the_base_is_kept(base, tmp_path):
    export(WanGridTransformer(pretrained=str(base)), tmp_path / "out/transformer")
    ours, theirs = (
        json.loads((folder / "transformer/config.json").read_text()) for folder in (tmp_path / "out", base)
    )
    assert {k: v for k, v in ours.items() if k[0] != "_"} == {k: v for k, v in theirs.items() if k[0] != "_"}
