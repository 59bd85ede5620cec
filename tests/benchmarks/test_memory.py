"""The memory table: counts on the meta device against what autograd really keeps, and the published sizes."""

import pytest
import torch
from benchmarks.memory import Grid, inputs, kept_bytes, main

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.networks import WanGridTransformer

SIZES = dict(
    num_attention_heads=2, attention_head_dim=24, in_channels=4, text_dim=16, freq_dim=32, ffn_dim=64
)
GRID = Grid(views=2, frames=5, height=32, width=32)


def network(layers, device):
    with torch.device(device):
        return WanGridTransformer(**SIZES, num_layers=layers, text_length=3)


def real_inputs(net):
    return [torch.randn(x.shape) for x in inputs(net, GRID)]


def test_the_meta_device_counts_what_autograd_keeps():
    meta, real = network(3, "meta"), network(3, "cpu")
    expected = kept_bytes(real, *real_inputs(real))
    # attention to the text keeps a little more where no kernel is chosen
    assert kept_bytes(meta, *inputs(meta, GRID)) == pytest.approx(expected, rel=0.01)


def test_blocks_keep_equal_amounts():
    one, two, five = (kept_bytes(net, *inputs(net, GRID)) for net in (network(k, "meta") for k in (1, 2, 5)))
    assert five == one + 4 * (two - one)


def test_selective_checkpointing_keeps_what_the_table_says():
    """Beside the inputs of the blocks, which checkpointing holds without telling autograd."""
    real = network(3, "cpu")
    whole = kept_bytes(real, *real_inputs(real))
    checkpoint_blocks(real, "full")
    assert kept_bytes(real, *real_inputs(real)) < whole / 2


@pytest.mark.parametrize(
    "name, billions, gigabytes",
    [("wan2.1_1.3b", 1.419, 3.61), ("wan2.1_14b", 14.288, 21.21), ("wan2.2_5b", 5.000, 0)],
)
def test_published_sizes(name, billions, gigabytes, caplog):
    with caplog.at_level("INFO"):
        memory = main(
            ["--network", f"configs/network/{name}.yaml", "--gpus", "8"]
            + (["--grid.height", "160", "--grid.stride", "16"] if "5b" in name else [])
        )
    assert f"{billions:.3f} billion parameters on 8 GPUs" in caplog.text
    assert memory.total("full") < memory.total("selective") < memory.total("none")
    if gigabytes:
        assert abs(memory.total("full") / 1e9 - gigabytes) < 0.01
