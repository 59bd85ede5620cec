"""Weights that stay in their files until a network is split over ranks (one gloo rank, and the rows of several)."""

import json

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh

from scene4d.distributed.fsdp import shard_blocks
from scene4d.distributed.sharding import gather
from scene4d.networks import WanGridTransformer
from scene4d.networks.deferred import allocate, deferred_weights, fill
from scene4d.networks.pretrained import load_initial_weights
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.networks.wan import LoRA, Sequential


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base in two files."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    base = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    base.save_pretrained(folder / "transformer", max_shard_size="40KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return folder


def build(folder, **more):
    return WanGridTransformer(pretrained=str(folder), text_length=4, **more)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_that_is_filled_after_it_was_split_is_the_one_that_was_loaded_whole(folder, mesh, dtype):
    loaded = build(folder, dtype=dtype)
    with deferred_weights():
        network = build(folder, dtype=dtype)
    for made in (loaded, network):
        trainable_parameters(made, made.default_trainable)
    assert all(p.is_meta for p in network.parameters()) and network.has_weights
    shard_blocks(network, mesh)
    fill(network, network.deferred, torch.device("cpu"))
    found, expected = network.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        whole = gather(found[name])
        assert whole.dtype == value.dtype and torch.equal(whole, value), name
    for (name, ours), (_, theirs) in zip(network.named_buffers(), loaded.named_buffers()):
        assert torch.equal(ours, theirs), name
    inputs = torch.ones(1, 2, 2, 4, 4, 4), torch.tensor([0.5])
    torch.testing.assert_close(network(*inputs), loaded(*inputs))


VGGT = {
    "image_size": 28, "dim": 16, "depth": 4, "heads": 2, "embedder_depth": 1, "registers": 1, "camera_depth": 1,
    "camera_heads": 2, "camera_iterations": 1, "layers": (0, 1, 2, 3), "head_channels": (8, 8, 8, 8),
    "head_features": 8, "head_hidden": 4, "point_head": False,
}  # fmt: skip
NEW = ("aggregator.temporal", "gaussian_head.")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_files_will_give_are_read_by_rows_after_splitting(mesh, tmp_path, suffix):
    torch.manual_seed(0)
    given = {k: torch.randn_like(x) for k, x in ReconstructionNetwork(**VGGT).state_dict().items()}
    given = {k: x for k, x in given.items() if not k.startswith(NEW)} | {"track_head.x": torch.ones(2)}
    file = tmp_path / f"base.{suffix}"
    save_file(given, file) if suffix == "safetensors" else torch.save(given, file)
    networks = []
    for later in (False, True):
        torch.manual_seed(0)
        with deferred_weights(initial=later):
            networks.append(ReconstructionNetwork(**VGGT))
    loaded, network = networks
    assert {k for k, p in network.named_parameters() if p.is_meta} == given.keys() - {"track_head.x"}
    assert not any(x.is_meta for x in network.buffers())
    for made in networks:
        trainable_parameters(made, ["^gaussian_head", "temporal_blocks"])
    shard_blocks(network, mesh)
    allocate(network, torch.device("cpu"))
    kept = [load_initial_weights(made, [str(file)]) for made in networks]
    assert kept[0] == kept[1] and all(k.startswith(NEW) for k in kept[0])
    trains = [{k for k, p in made.named_parameters() if p.requires_grad} for made in networks]
    assert trains[0] == trains[1] and all(k.startswith(NEW) for k in trains[1])
    for name, value in network.state_dict().items():
        assert name in kept[0] or torch.equal(gather(value), given[name]), name
    images = torch.rand(1, 2, 2, 3, 28, 28)
    with torch.no_grad():
        assert network(images).depths.isfinite().all()
        for name, p in loaded.named_parameters():  # random starts of the two differ
            p.copy_(gather(network.state_dict()[name]))
        torch.testing.assert_close(network(images).gaussians, loaded(images).gaussians)


def test_without_weight_files_nothing_is_left_for_later(mesh):
    for options in ({}, {"wanted": False, "initial": True}):
        with deferred_weights(**options):
            assert not any(p.is_meta for p in ReconstructionNetwork(**VGGT).parameters())


def test_outside_of_the_context_weights_are_loaded(folder):
    assert not any(p.is_meta for p in build(folder).parameters())
    with deferred_weights(False):
        assert not any(p.is_meta for p in build(folder).parameters())


@pytest.mark.parametrize("more", [{"architecture": Sequential()}, {"adapter": LoRA(rank=2)}])
def test_what_starts_from_the_values_of_the_base_needs_them(folder, more):
    with deferred_weights():
        network = build(folder, **more)
    assert not network.deferred and not any(p.is_meta for p in network.parameters())


@pytest.mark.parametrize("change, message", [
    ("missing", "'proj_out.bias' is absent there and [16] by config.json"),
    ("extra", "'other' is [1] there and absent by config.json"),
    ("shape", "'proj_out.bias' is [2] there and [16] by config.json"),
])  # fmt: skip
def test_files_of_another_network_are_named(folder, tmp_path, change, message):
    whole = {}
    for path in sorted((folder / "transformer").glob("*.safetensors")):
        whole |= load_file(path)
    (tmp_path / "transformer").mkdir()
    config = json.loads((folder / "transformer/config.json").read_text())
    (tmp_path / "transformer/config.json").write_text(json.dumps(config))
    whole |= {"extra": {"other": torch.ones(1)}, "shape": {"proj_out.bias": torch.ones(2)}}.get(change, {})
    if change == "missing":
        del whole["proj_out.bias"]
    save_file(whole, tmp_path / "transformer/diffusion_pytorch_model.safetensors")
    with deferred_weights(), pytest.raises(ValueError) as error:
        build(tmp_path)
    assert message in str(error.value)


def test_without_files_the_error_says_what_belongs_there(folder, tmp_path):
    with deferred_weights(), pytest.raises(ValueError, match="it is no local folder"):
        build(tmp_path / "nowhere")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text((folder / "transformer/config.json").read_text())
    with deferred_weights(), pytest.raises(ValueError, match="there are no .* files in"):
        build(tmp_path)
