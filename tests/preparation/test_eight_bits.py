"""Weights of half the size: what they lose, and that they load as any others."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from preparation.eight_bits import main
from scene4d.networks.eight_bits import from_eight_bits, to_eight_bits
from scene4d.networks.pretrained import load_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Conv2d(8, 64, 3), nn.Linear(4, 4))


def test_a_rounded_file_loads_into_the_network_within_half_a_level(tmp_path):
    weights = {name: value.half() for name, value in network().state_dict().items()}
    save_file(weights, tmp_path / "a.safetensors", metadata={"step": "3"})
    main([str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"step": "3"}
    assert load_file(tmp_path / "b.safetensors")["1.weight"].dtype == torch.int8
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_weights(other, [str(tmp_path / "b.safetensors")])
    for name, value in other.state_dict().items():
        expected = weights[name].float()
        if name in ("0.weight", "1.weight"):
            level = expected.flatten(1).abs().amax(1) / 127
            error = (value - expected).flatten(1).abs().amax(1)
            assert (error <= 0.501 * level).all() and error.max() > 0
        else:
            assert torch.equal(value, expected), name


def test_rows_of_zeros_and_whole_numbers_are_exact():
    value = torch.zeros(64, 64)
    value[1] = torch.arange(-32, 32) * (127 / 32)
    again = from_eight_bits(to_eight_bits({"x": value, "count": torch.arange(9000).reshape(90, 100)}))
    assert torch.equal(again["x"][0], value[0]) and again["count"].dtype == torch.int64
    torch.testing.assert_close(again["x"][1], value[1].div(1).round().float(), atol=0.5, rtol=0)


@pytest.mark.parametrize("lost", ["x", "x.row_scale"])
def test_a_half_of_a_matrix_is_refused(lost):
    rounded = to_eight_bits({"x": torch.randn(64, 64)})
    del rounded[lost]
    with pytest.raises(ValueError, match=r"'x' needs both a matrix of 8 bits and 'x\.row_scale'"):
        from_eight_bits(rounded)
