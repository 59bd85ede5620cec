"""A file with all names of the released VGGT-1B, at a small width, loads strictly."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scene4d.networks.pretrained import load_initial_weights
from scene4d.networks.vggt import ReconstructionNetwork

NARROW = {
    "image_size": 28, "dim": 16, "heads": 2, "camera_heads": 2, "head_channels": (8, 8, 8, 8), "head_features": 8,
    "head_hidden": 4,
}  # fmt: skip
TRACKER = {"track_head.tracker.corr_mlp.fc1.weight": torch.ones(2, 2)}


def names():
    fixture = Path(__file__).with_name("vggt_1b_shapes.json.gz")
    return set(json.loads(gzip.decompress(fixture.read_bytes())))


@pytest.fixture(scope="module")
def given():
    """Random values of every name, for all depths are the released ones."""
    torch.manual_seed(0)
    network = ReconstructionNetwork(**NARROW, temporal=False, gaussian_head=False)
    values = {name: torch.randn_like(x) for name, x in network.state_dict().items()}
    assert values.keys() == names()
    return values


@pytest.mark.parametrize("file", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("point_head", [True, False])
def test_every_name_is_loaded_and_the_rest_keeps_its_start(given, tmp_path, file, point_head):
    content = given | TRACKER
    save_file(content, tmp_path / file) if file.endswith("safetensors") else torch.save(
        content, tmp_path / file
    )
    network = ReconstructionNetwork(**NARROW, point_head=point_head, temporal_after_frame=True)
    kept = load_initial_weights(network, [str(tmp_path)])
    own = network.state_dict()
    loaded = {name for name in given if point_head or not name.startswith("point_head.")}
    assert own.keys() - loaded == set(kept)
    assert {name.split(".")[1] if name[0] == "a" else name.split(".")[0] for name in kept} == {
        "temporal_blocks", "temporal_frame_blocks", "gaussian_head",
    }  # fmt: skip
    assert all(torch.equal(own[name], given[name]) for name in loaded)


@pytest.mark.parametrize("change, message", [
    ("missing", "'camera_head.token_norm.bias' is absent there and [32] in the network"),
    ("extra", "'aggregator.other' is [1] there and absent in the network"),
    ("shape", "'camera_head.token_norm.bias' is [3] there and [32] in the network"),
    ("nan", "is spoilt: 1 of 1404 tensors hold NaN or infinity, the first is 'camera_head.token_norm.bias'"),
])  # fmt: skip
def test_what_does_not_fit_is_named(given, tmp_path, change, message):
    name = "camera_head.token_norm.bias"
    content = given | {
        "missing": {}, "extra": {"aggregator.other": torch.ones(1)}, "shape": {name: torch.ones(3)},
        "nan": {name: torch.full((32,), torch.nan), "gaussian_head.norm.bias": torch.ones(32)},
    }[change]  # fmt: skip
    if change == "missing":
        del content[name]
    save_file(content, tmp_path / "model.safetensors")
    network = ReconstructionNetwork(**NARROW)
    with pytest.raises(ValueError) as error:
        load_initial_weights(network, str(tmp_path / "model.safetensors"))
    assert message in str(error.value) and str(tmp_path / "model.safetensors") in str(error.value)
