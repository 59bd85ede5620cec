"""Without gradients the network works on a part of its tokens at a time, with the same results."""

import pytest
import torch

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
