import gzip
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from scene4d.geometry.pose_encoding import decode_pose
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.networks.vggt.aggregator import attend_over_time
from scene4d.networks.vggt.rope import time_rotation

TINY = {
    "image_size": 32, "patch_size": 8, "dim": 16, "depth": 4, "heads": 2, "embedder_depth": 1, "registers": 2,
    "layer_scale": 1.0, "camera_depth": 1, "camera_heads": 2, "camera_iterations": 2, "layers": (0, 1, 2, 3),
    "head_channels": (8, 8, 8, 8), "head_features": 8, "head_hidden": 8,
}  # fmt: skip


def make_network(**changes):
    torch.manual_seed(0)
    network = ReconstructionNetwork(**TINY | changes).eval()
    torch.nn.init.normal_(network.depth_head.scratch.output_conv2[2].weight)  # so that differences show
    return network


def make_images(b=1, v=3, t=2, size=32):
    return torch.rand(b, v, t, 3, size, size, generator=torch.Generator().manual_seed(1))


def wake(network, seed=2):
    """Gives zero-initialised temporal layers something to do."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "temporal" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_defaults_have_the_names_and_shapes_of_vggt_1b():
    fixture = Path(__file__).with_name("vggt_1b_shapes.json.gz")
    expected = json.loads(gzip.decompress(fixture.read_bytes()))
    with torch.device("meta"):
        network = ReconstructionNetwork(gaussian_head=False, temporal=False)
        complete = ReconstructionNetwork()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == expected
    added = complete.state_dict().keys() - expected.keys()
    assert added and all(name.startswith(("aggregator.temporal_blocks.", "gaussian_head.")) for name in added)
    assert len(expected) == 1797 - 394  # all but the tracker


@torch.no_grad()
def test_prediction_shapes_ranges_and_world():
    images = make_images(b=2)
    prediction = make_network()(images)
    assert prediction.cameras.c2w.shape == (2, 3, 4, 4) and prediction.cameras.intrinsics.shape == (
        2,
        3,
        3,
        3,
    )
    assert torch.allclose(prediction.cameras.c2w[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-6)
    assert prediction.depths.shape == (2, 3, 2, 32, 32) and (prediction.depths > 0).all()
    assert (prediction.depth_confidence >= 1).all()
    assert prediction.points.shape == (2, 3, 2, 32, 32, 3)
    assert prediction.gaussians.shape == (2, 3, 2, 14, 32, 32)
    assert (prediction.poses[-1][..., 7:] >= 0).all() and len(prediction.poses) == 2


PLACES = [
    {"temporal": True},
    {"temporal": False, "temporal_after_frame": True},
    {"temporal": True, "temporal_after_frame": True, "temporal_mlp_ratio": 0.0},
    {"temporal": True, "temporal_after_frame": True, "temporal_rope": True},
]


@torch.no_grad()
@pytest.mark.parametrize("layers", PLACES)
@pytest.mark.parametrize("half", [False, True])
def test_temporal_attention_starts_as_the_exact_identity(layers, half):
    images = make_images()
    without, with_layers = make_network(temporal=False), make_network(**layers)
    missing = with_layers.load_state_dict(without.state_dict(), strict=False).missing_keys
    placed = {name.split(".")[1] for name in missing}
    wanted = {"temporal": "temporal_blocks", "temporal_after_frame": "temporal_frame_blocks"}
    assert placed == {wanted[key] for key, value in layers.items() if key in wanted and value}
    assert any("mlp" in name for name in missing) == (layers.get("temporal_mlp_ratio", 4.0) > 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        a, b = without(images), with_layers(images)
    assert torch.equal(a.depths, b.depths) and torch.equal(a.poses[-1], b.poses[-1])
    assert torch.equal(a.gaussians, b.gaussians)


def test_temporal_attention_learns_from_the_first_step():
    network = make_network().train()
    network(make_images()).depths.mean().backward()
    block = network.aggregator.temporal_blocks[0]
    assert block.attn.proj.weight.grad.abs().max() > 0 and block.mlp.fc2.weight.grad.abs().max() > 0


@torch.no_grad()
def test_only_temporal_attention_mixes_timesteps():
    images = make_images()
    changed = images.clone()
    changed[:, :, 1] = 1 - changed[:, :, 1]
    still = make_network(temporal=False)
    a, b = still(images), still(changed)
    assert torch.equal(a.depths[:, :, 0], b.depths[:, :, 0])
    assert not torch.allclose(a.depths[:, :, 1], b.depths[:, :, 1])
    moving = wake(make_network())
    assert not torch.allclose(moving(images).depths[:, :, 0], moving(changed).depths[:, :, 0], atol=1e-5)


@torch.no_grad()
def test_temporal_attention_sees_its_own_position_only():
    block_input = torch.randn(1, 3, 2, 5, 16)  # b t v l d
    changed = block_input.clone()
    changed[:, 2, 1, 4] += torch.randn(16)
    block = wake(make_network()).aggregator.temporal_blocks[0]
    difference = attend_over_time(block, changed, None) - attend_over_time(block, block_input, None)
    moved = difference.abs().amax(-1) > 1e-6
    assert moved[0, :, 1, 4].all() and moved.sum() == 3


@torch.no_grad()
def test_only_time_rope_knows_the_order_of_time():
    block = wake(make_network()).aggregator.temporal_blocks[0].double()
    tokens = torch.randn(1, 3, 2, 5, 16, dtype=torch.float64)  # b t v l d
    order = [0, 2, 1]
    for rotation, equivariant in ((None, True), (time_rotation(3, 8, 100.0, tokens.device), False)):
        turned = attend_over_time(block, tokens[:, order], rotation)
        straight = attend_over_time(block, tokens, rotation)[:, order]
        assert torch.allclose(turned, straight, atol=1e-10) == equivariant


@torch.no_grad()
def test_cameras_are_those_of_the_first_timestep():
    network, images = wake(make_network()), make_images(t=3)
    tokens = network.aggregator(images)
    replaced = tokens.camera[:, :1].expand_as(tokens.camera)  # the paper's replacement, all timesteps
    per_time = [network.camera_head(replaced[:, t])[-1] for t in range(3)]
    prediction = network(images)
    for poses in per_time:
        assert torch.equal(poses, prediction.poses[-1])
    assert not torch.allclose(network.camera_head(tokens.camera[:, 1])[-1], per_time[0], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("matcher", [False, True])
def test_without_camera_token_replacement_every_timestep_has_its_cameras(matcher):
    changes = {"match_views": matcher, "match_width": 16}
    network, images = wake(make_network(**changes)), make_images(b=2, t=3)
    apart = wake(make_network(camera_token_replacement=False, **changes))
    shared, found = network(images), apart(images)
    assert shared.timestep_cameras is None
    assert torch.allclose(found.cameras.c2w, shared.cameras.c2w, atol=1e-6)
    assert torch.allclose(found.poses[-1], shared.poses[-1], atol=1e-6)
    own = found.timestep_cameras.c2w
    assert own.shape == (2, 3, 3, 4, 4) and torch.equal(own[:, :, 0], found.cameras.c2w)
    assert torch.allclose(own[:, 0], torch.eye(4).expand(2, 3, 4, 4), atol=1e-6)  # each in its own world
    assert (own[:, 1:, 1] - own[:, 1:, 0]).abs().max() > 1e-5
    alone = wake(make_network(temporal=False, **changes))
    still = wake(make_network(temporal=False, camera_token_replacement=False, **changes))(images)
    for k in range(3):  # without temporal attention they are those of the timestep on its own
        one = alone(images[:, :, k : k + 1]).cameras
        assert torch.allclose(still.timestep_cameras[:, :, k].c2w, one.c2w, atol=1e-5)


@torch.no_grad()
def test_views_beside_the_first_are_interchangeable():
    network, images = make_network(), make_images(v=4, t=1)
    order = [0, 3, 1, 2]
    assert torch.allclose(network(images[:, order]).depths, network(images).depths[:, order], atol=1e-5)
    assert not torch.allclose(
        network(images[:, [1, 0, 2, 3]]).depths[:, 1], network(images).depths[:, 0], atol=1e-5
    )


@torch.no_grad()
def test_other_image_sizes_and_their_errors():
    prediction = make_network()(make_images(size=48))
    assert prediction.depths.shape[-2:] == (48, 48)
    with pytest.raises(ValueError, match="36x36.*patches of 8"):
        make_network()(make_images(size=36))


def test_bf16_autocast_keeps_the_residual_stream_and_cameras_in_fp32():
    network, images = make_network(), make_images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tokens = network.aggregator(images)
        prediction = network(images)
    assert tokens.camera.dtype == torch.float32
    assert all(layer.dtype == torch.float32 for layer in tokens.layers.values())
    assert prediction.cameras.c2w.dtype == prediction.depths.dtype == torch.float32
    again = decode_pose(prediction.poses[-1], 32, 32)
    assert torch.allclose(again.intrinsics, prediction.cameras.intrinsics)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(14, 14), (14, 70), (56, 42), (42, 56)])
def test_all_multiples_of_14_fit(shape):
    network = make_network(image_size=56, patch_size=14)
    prediction = network(torch.rand(1, 2, 1, 3, *shape))
    assert prediction.depths.shape[-2:] == shape and prediction.depths.isfinite().all()
    assert prediction.gaussians.shape[-2:] == shape


@torch.no_grad()
def test_camera_head_and_dense_heads_compute_in_fp32_under_bf16():
    network, seen = make_network(), {}

    def note(name, module, inputs, output):
        seen[name] = output.dtype

    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm)):
            module.register_forward_hook(partial(note, name))
    with torch.autocast("cpu", torch.bfloat16):
        network(make_images())
    heads = ("camera_head.", "depth_head.", "point_head.", "gaussian_head.")
    assert all(any(name.startswith(head) for name in seen) for head in heads)
    assert {x for name, x in seen.items() if name.startswith(heads)} == {torch.float32}
    assert seen["aggregator.frame_blocks.0.attn.qkv"] == torch.bfloat16


def test_wrong_layer_counts_are_named():
    with pytest.raises(ValueError, match=r"\[1, 2, 3, 9\].*depth 4"):
        make_network(layers=(1, 2, 3, 9))
    with pytest.raises(ValueError, match="4 layers"):
        make_network(layers=(0, 1))
