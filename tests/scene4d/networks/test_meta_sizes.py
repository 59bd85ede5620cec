"""Networks of true size on the meta device: names, shapes, what trains, and a forward pass."""

import pytest
import torch
from jsonargparse import ArgumentParser

from benchmarks.architectures import cost
from benchmarks.grids import Grid, build
from scene4d.networks import WanGridTransformer
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.wan import Diagonal, Fused, Parallel, Sequential


def on_meta(name, **changes):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(WanGridTransformer, "network", required=True)
    return build(parser, parser.parse_args(["--network", f"configs/network/{name}.yaml"]), **changes)


@pytest.mark.parametrize(
    "name, parameters, trained, width, layers, channels",
    [
        ("wan2.1_1.3b", 1_418_996_800, 283_392_000, 1536, 30, 16),
        ("wan2.1_14b", 14_288_491_584, 4_195_532_800, 5120, 40, 16),
        ("wan2.2_5b", 4_999_787_712, 1_133_015_040, 3072, 30, 48),
    ],
)
def test_published_bases(name, parameters, trained, width, layers, channels):
    network = on_meta(name)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes["base.patch_embedding.weight"] == (width, channels, 1, 2, 2)
    assert shapes[f"base.blocks.{layers - 1}.attn1.to_q.weight"] == (width, width)
    assert f"base.blocks.{layers}.attn1.to_q.weight" not in shapes
    assert shapes["base.condition_embedder.text_embedder.linear_1.weight"] == (width, 4096)
    counts = {key: p.numel() for key, p in network.named_parameters()}
    found = sum(counts[key] for key in trainable_parameters(network, network.default_trainable))
    assert (sum(counts.values()), found) == (parameters, trained)
    assert found == layers * (4 * (width * width + width) + 2 * width)


@pytest.mark.parametrize("architecture", [Fused(), Fused(Diagonal()), Sequential(), Parallel()])
def test_a_forward_pass_on_meta_gives_shapes_and_flops(architecture):
    with torch.device("meta"):
        network = WanGridTransformer(num_layers=2, architecture=architecture)
        latents = torch.zeros(1, 3, 2, 32, 4, 4)
        mask = torch.zeros(1, 3, 2, dtype=torch.bool)
        output = network(latents, torch.zeros(1), torch.zeros(1, 1, 384), latents, mask)
    assert output.is_meta and output.shape == latents.shape
    counted = cost(network, Grid(views=3, frames=5, height=32, width=32))
    assert 2 < counted.step / counted.forward < 3  # nothing frozen gets a gradient of its weights


@pytest.mark.parametrize(
    "path, init_args, expected",
    [
        ("Fused", {}, Fused()),
        ("Fused", {"positions": {"class_path": "scene4d.networks.wan.Diagonal"}}, Fused(Diagonal())),
        ("Sequential", {"backend": "masked"}, Sequential("masked")),
        ("Parallel", {}, Parallel()),
    ],
)
def test_architectures_and_positions_are_chosen_by_class_path(path, init_args, expected):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(WanGridTransformer, "network", required=True)
    chosen = {"class_path": f"scene4d.networks.wan.{path}", "init_args": init_args}
    content = {"class_path": "scene4d.networks.WanGridTransformer", "init_args": {"architecture": chosen}}
    with torch.device("meta"):
        network = parser.instantiate(parser.parse_object({"network": content})).network
    assert network.architecture == expected
