"""Without gradients the network works on a part of its tokens at a time, with the same results."""

import pytest
import torch

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.networks.trainable import trainable_parameters
from scene4d.networks.vggt import ReconstructionNetwork, layers

SMALL = {
    "image_size": 28, "dim": 32, "depth": 4, "heads": 2, "embedder_depth": 1, "registers": 1, "camera_depth": 1,
    "camera_heads": 2, "camera_iterations": 1, "layers": (0, 1, 2, 3), "head_channels": (8, 8, 8, 8),
    "head_features": 8, "head_hidden": 4, "point_head": False,
}  # fmt: skip


@pytest.mark.parametrize("at_once, chunk", [(5, 1), (20, 4), (10**9, 0)])
@pytest.mark.parametrize("image_skip", [0, 4])
def test_parts_give_what_the_whole_gives(at_once, chunk, image_skip, monkeypatch):
    torch.manual_seed(0)
    network = ReconstructionNetwork(**SMALL, head_chunk=0, image_skip=image_skip).eval()
    for block in network.aggregator.temporal_blocks:
        torch.nn.init.normal_(block.attn.proj.weight, std=0.1)
    images = torch.rand(2, 3, 4, 3, 28, 42)
    whole = network(images)  # with gradients
    monkeypatch.setattr(layers, "AT_ONCE_ON_CPU", at_once)
    network.depth_head.chunk = network.gaussian_head.chunk = chunk
    with torch.no_grad():
        parts = network(images)
    for name in ("depths", "depth_confidence", "gaussians"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.poses[-1], whole.poses[-1], rtol=1e-4, atol=1e-5)


def backward(checkpointing, trained):
    """Gradients of a loss on everything that is predicted, and how many numbers wait for the backward pass."""
    torch.manual_seed(0)
    network, saved = ReconstructionNetwork(**SMALL, head_chunk=2), []
    trainable_parameters(network, trained)
    checkpoint_blocks(network, checkpointing)
    images = torch.rand(1, 3, 2, 3, 28, 42)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        found = network(images)
        loss = sum(x.square().mean() for x in (found.depths, found.gaussians, found.poses[-1]))
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, sum(saved)


@pytest.mark.parametrize("trained, share", [(["^gaussian_head"], 0.5), (["temporal", "^gaussian_head"], 0.4)])
def test_blocks_and_heads_are_computed_again(trained, share):
    gradients, kept = backward("none", trained)
    again, left = backward("full", trained)
    assert left < share * kept
    assert gradients.keys() == again.keys()
    assert all(any(x.strip("^") in name for x in trained) for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient)


def test_what_is_frozen_works_on_parts_while_the_rest_trains(monkeypatch):
    """The embedder's blocks, in front of all that trains, see some frames at a time."""
    monkeypatch.setattr(layers, "AT_ONCE_ON_CPU", 20)
    network = ReconstructionNetwork(**SMALL)
    trainable_parameters(network, ["temporal", "^gaussian_head"])
    seen = []
    whole = layers.Block._whole
    monkeypatch.setattr(
        layers.Block,
        "_whole",
        lambda self, x, rotation: seen.append((self, len(x))) or whole(self, x, rotation),
    )
    network(torch.rand(1, 3, 2, 3, 28, 42)).gaussians.mean().backward()
    embedder, temporal = network.aggregator.patch_embed.blocks[0], network.aggregator.temporal_blocks[0]
    assert [count for block, count in seen if block is embedder] == [1] * 6
    assert [count for block, count in seen if block is temporal] == [3 * (6 + 2)]
