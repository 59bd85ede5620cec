import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scene4d.networks.pretrained import load_weights, read_weights
from scene4d.networks.vggt import ReconstructionNetwork


class Small(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.aggregator = nn.Linear(2, width)
        self.gaussian_head = nn.Linear(2, 2)


def geometry():
    return {"aggregator.weight": torch.full((3, 2), 2.0), "aggregator.bias": torch.ones(3)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_loads_a_file_and_names_what_is_new(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    given = geometry() | {"track_head.x": torch.zeros(1), "point_head.x": torch.zeros(1)}
    save_file(given, path) if suffix == ".safetensors" else torch.save(given, path)
    network = Small()
    kept = load_weights(
        network, path, ReconstructionNetwork.unused_weights, ReconstructionNetwork.optional_weights
    )
    assert network.aggregator.weight.eq(2).all()
    assert kept == ["gaussian_head.weight", "gaussian_head.bias"]


def test_missing_file_says_which_file_goes_where(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.safetensors.*VGGT-1B"):
        read_weights(tmp_path / "nowhere.safetensors")


def test_pickles_are_refused(tmp_path):
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt' cannot be read: .*nothing else is ever unpickled"):
        read_weights(tmp_path / "bad.pt")


def test_files_are_joined_and_other_architectures_are_named_with_both_shapes(tmp_path):
    def load(network, **files):
        for name, weights in files.items():
            save_file(weights, tmp_path / f"{name}.safetensors")
        return load_weights(
            network,
            [str(tmp_path / f"{name}.safetensors") for name in files],
            optional=ReconstructionNetwork.optional_weights,
        )

    first, bias = {"aggregator.weight": torch.ones(3, 2)}, {"aggregator.bias": torch.ones(3)}
    network = Small()
    load(network, a=first | bias, b={"aggregator.weight": torch.full((3, 2), 5.0).half()})
    assert network.aggregator.weight.eq(5).all() and network.aggregator.weight.dtype == torch.float32
    with pytest.raises(
        ValueError, match=r"a\.safetensors.*'aggregator\.weight' is \[3, 2\] there and \[5, 2\] in"
    ):
        load(Small(width=5), a=geometry())
    with pytest.raises(ValueError, match=r"'other\.bias' is \[1\] there and absent in the network"):
        load(Small(), a=geometry(), b={"other.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'aggregator\.bias' is absent there and \[3\]"):
        load(Small(), a=first)
    with pytest.raises(
        ValueError, match=r"'track_head\.x' is \[1\] there and absent"
    ):  # only VGGT may drop it
        load(Small(), a=geometry(), b={"track_head.x": torch.zeros(1)})


def test_tensors_without_names_are_one_line(tmp_path):
    torch.save({0: torch.zeros(2)}, tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt' holds no dictionary of tensors by name"):
        read_weights(tmp_path / "list.pt")
