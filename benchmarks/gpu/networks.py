"""The project's networks of full size with random weights, made on the device."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from scene4d.networks import WanGridTransformer
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.networks.wan.model import WAN_TEXT_LENGTH

CONFIGS = Path(__file__).parents[2] / "configs/network"
WIDE = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # diffusers keeps them in float32
TINY_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
TINY_VGGT = {
    "dim": 32, "depth": 4, "heads": 2, "embedder_depth": 1, "camera_depth": 1, "camera_heads": 2,
    "layers": [0, 1, 2, 3], "head_channels": [16, 16, 16, 16], "head_features": 16, "head_hidden": 8,
}  # fmt: skip


def wan(name: str, device: torch.device, tiny: bool) -> WanGridTransformer:
    """The network of configs/network/NAME.yaml as `pretrained` would give it: bfloat16, some layers float32.

    Args:
        name: File without its ending.
        device: Where its weights are made.
        tiny: Whether sizes are those of a rehearsal.
    """
    settings = _settings(name) | {"text_length": WAN_TEXT_LENGTH} | (TINY_WAN if tiny else {})
    settings |= {"pretrained": None, "dtype": "float32"}
    network = _made(lambda: WanGridTransformer(**settings), device)
    for key, parameter in network.named_parameters():
        if set(WIDE) & set(key.split(".")):
            parameter.data = parameter.data.float()
    return network


def vggt(device: torch.device, dtype: torch.dtype, tiny: bool) -> ReconstructionNetwork:
    """VGGT-1B's size with temporal attention and the Gaussian head; the heads stay in float32."""
    network = _made(lambda: ReconstructionNetwork(**vggt_settings(tiny)), device).float()
    network.aggregator.to(dtype)  # the heads compute in float32 whatever the precision
    return network


def vggt_settings(tiny: bool) -> dict[str, object]:
    """Arguments of the network of `vggt`."""
    return _settings("vggt_1b") | (TINY_VGGT if tiny else {}) | {"temporal": True}


def _settings(name: str) -> dict[str, object]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["init_args"]


def _made(build, device: torch.device):
    """Weights that start at zero get values, for kernels are faster on zeros."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            network: nn.Module = build()
    finally:
        torch.set_default_dtype(before)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def latents_of(
    size: tuple[int, int, int, int], device: torch.device, channels: int = 16
) -> tuple[Tensor, Tensor]:
    """Random latents of views, latent frames, height and width; the mask of a grid with both videos given."""
    views, frames, height, width = size
    mask = torch.zeros(1, views, frames, dtype=torch.bool, device=device)
    mask[:, 0], mask[:, :, 0] = True, True
    return torch.randn(1, views, frames, channels, height, width, device=device), mask


def text_of(network: WanGridTransformer, device: torch.device) -> Tensor:
    """A random caption."""
    return 0.1 * torch.randn(1, network.text_length, network.base.config.text_dim, device=device)
