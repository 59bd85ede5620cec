"""Small models and scenes for the tests of pipelines and training on a GPU."""

import torch
from torch import nn

from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.types import SceneBatch

SIZE = 32


def wan(seed: int = 0) -> WanGridTransformer:
    """A tiny diffusion network with heads of 64 channels, which every kernel takes; no weight is zero."""
    torch.manual_seed(seed)
    network = WanGridTransformer(
        num_attention_heads=2, attention_head_dim=64, in_channels=4, text_dim=8, freq_dim=16, ffn_dim=64,
        num_layers=2, patch_size=(1, 1, 1),
    )  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def patch_autoencoder() -> PatchAutoencoder:
    """A tiny autoencoder that fits the network, always the same."""
    torch.manual_seed(1)
    return PatchAutoencoder(channels=4, width=64, depth=1).eval()


def scenes(count: int = 2) -> SceneBatch:
    """Random pictures, of which the first view and the first timestep are given."""
    reference = torch.zeros(count, 3, 9, dtype=torch.bool)
    reference[:, 0] = reference[:, :, 0] = True
    return SceneBatch(
        images=torch.rand(count, 3, 9, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)), cameras=None,
        frame_times=torch.zeros(count, 9), reference=reference, source=["objects"] * count,
        keys=[f"scene{k}" for k in range(count)],
    )  # fmt: skip


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Size of the difference over that of the expected values, on the CPU."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm()).item()
