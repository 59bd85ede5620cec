"""The autoencoder of a public Wan checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.latent_grid import TEMPORAL_STRIDE
from scene4d.networks.pretrained import from_pretrained


class WanAutoencoder(nn.Module):
    """diffusers' `AutoencoderKLWan`, from a public Wan checkpoint.

    Args:
        pretrained: Local folder or hub id in diffusers' layout, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        subfolder: Folder of the autoencoder inside it.
        dtype: Type of the weights and of the computation, float32 or bfloat16.

    Raises:
        ValueError: The checkpoint is missing, or compresses time by another factor than 4.
    """

    model: Any  # an AutoencoderKLWan, whose members diffusers declares to no type checker
    mean: Tensor
    std: Tensor

    has_weights = True

    def __init__(self, pretrained: str, subfolder: str = "vae", dtype: str = "float32") -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan  # half a second, for those alone who use it

        self.model = from_pretrained(AutoencoderKLWan, pretrained, subfolder, getattr(torch, dtype))
        config = self.model.config
        if config.get("scale_factor_temporal", TEMPORAL_STRIDE) != TEMPORAL_STRIDE:
            raise ValueError(
                f"{pretrained!r} compresses time by {config.scale_factor_temporal}, expected {TEMPORAL_STRIDE}"
            )
        self.stride: int = config.get("scale_factor_spatial", 8)
        for name in ("mean", "std"):
            value = torch.tensor(config[f"latents_{name}"], dtype=torch.float32).view(1, -1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Video in [-1, 1] -> the mode of the posterior, normalised with the checkpoint's own numbers."""
        with torch.autocast(video.device.type, enabled=False):
            mode = self.model.encode(video.to(self.model.dtype)).latent_dist.mode()
            return (mode.float() - self.mean) / self.std

    def decode(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Normalised latents -> video in [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            raw = latents.float() * self.std + self.mean
            return self.model.decode(raw.to(self.model.dtype)).sample.float()
