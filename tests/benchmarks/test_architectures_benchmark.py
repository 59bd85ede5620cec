"""The comparison of the architectures: counts against arithmetic, and a training of two steps."""

import json

import pytest
import torch

from benchmarks.architectures import cost, main
from benchmarks.grids import Grid
from scene4d.networks import WanGridTransformer
from scene4d.networks.pretrained import read_weights

SHORT = """
model.init_args.lr_scheduler.init_args.warmup_steps: 1
data.init_args.num_workers: 0
data.init_args.batch_size: 1
data.init_args.val_batch_size: 1
data.init_args.val: [{name: objects, urls: [objects-val-*.tar]}]
"""


def test_flops_are_those_of_the_formula():
    """One block, one view: products of the layers and both attentions, by hand."""
    with torch.device("meta"):
        network = WanGridTransformer(
            patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=24, in_channels=4, text_dim=16,
            freq_dim=32, ffn_dim=64, num_layers=1, text_length=3,
        )  # fmt: skip
    width, tokens, text = 48, 2 * 4 * 4, 3
    block = 4 * tokens * width**2 + 2 * tokens * tokens * width  # own
    block += (2 * tokens + 2 * text) * width**2 + 2 * tokens * text * width  # text
    block += 2 * tokens * width * 64
    ends = tokens * 2 * 4 * width + text * (16 * width + width**2) + 32 * width + width**2 + 6 * width**2
    assert cost(network, Grid(1, 5, 32, 32)).forward == 2 * (block + ends)


def test_a_network_of_full_size_is_counted_and_not_mixed_with_the_default():
    grid = ["--grid.views", "8", "--grid.frames", "29", "--grid.height", "144", "--grid.width", "256"]
    counted = main(["--network", "configs/network/wan2.1_1.3b.yaml", *grid])["costs"]
    fused, width, tokens = counted["Fused"], 1536, 8 * 8 * 9 * 16
    assert (fused.parameters, fused.trained, fused.new) == (1_418_996_800, 283_392_000, 0)
    assert counted["Sequential"].new == 30 * (4 * (width**2 + width) + 2 * width + width**2 + width)
    assert counted["Parallel"].new == 59 * (2 * width**2 + width)  # the last block has one, not two
    block = (6 * width**2 + 2 * width * 8960) * tokens + 2 * width**2 * 512  # products of the layers
    block += (
        2 * width * tokens * (512 + 144 * (8 + 8 + 1))
    )  # pairs of tokens and text, of view, time and frame
    assert fused.forward == pytest.approx(2 * 30 * block, rel=0.01)


def test_two_steps_of_each(tmp_path, caplog):
    (tmp_path / "short.yaml").write_text(SHORT)
    configs = f"[configs/small/diffusion_stage1.yaml, {tmp_path}/short.yaml]"
    with caplog.at_level("INFO"):
        main(["--steps", "2", "--config", configs, "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    costs, training = figures["costs"], figures["training"]
    assert list(costs) == list(training) == ["Fused", "Sequential", "Parallel"]
    count = sum(x.numel() for x in read_weights("assets/small/weights/base_video.safetensors").values())
    assert costs["Fused"]["new"] == 0 and costs["Fused"]["parameters"] == count
    for name, x in costs.items():
        assert x["parameters"] == costs["Fused"]["parameters"] + x["new"], name
        assert x["trained"] == costs["Fused"]["trained"] + x["new"], name
    assert costs["Fused"]["step"] < costs["Sequential"]["step"] < costs["Parallel"]["step"]
    assert all(x["difference"] < 1e-5 and len(x["losses"]) == 2 for x in training.values())
    assert training["Fused"]["time_ratio"] == 1
    # the first losses differ only by what other views say: all started from the same weights and noise
    assert training["Sequential"]["losses"][0] == pytest.approx(training["Parallel"]["losses"][0], rel=1e-4)
    assert caplog.text.count("| Parallel |") == 2
