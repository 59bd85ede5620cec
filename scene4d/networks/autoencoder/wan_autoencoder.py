"""The autoencoder of a public Wan checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.latent_grid import TEMPORAL_STRIDE
from scene4d.networks.diffusers_layout import load_diffusers_model
from scene4d.networks.pretrained import refuse_non_finite


class WanAutoencoder(nn.Module):
    """diffusers' `AutoencoderKLWan`, from a public Wan checkpoint.

    Args:
        pretrained: Local folder or hub id in diffusers' layout, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        subfolder: Folder of the autoencoder inside it.
        dtype: Type of the weights and of the computation, float32 or bfloat16.
        videos_at_once: How many videos, views of grids among them, are encoded or decoded together. More need more
            memory, and are hardly faster.

    Raises:
        ValueError: The checkpoint is missing or of another class, compresses time by another factor than 4, holds NaN,
            or does not say how latents are normalised, or `videos_at_once` is not positive.
    """

    model: Any  # an AutoencoderKLWan, whose members diffusers declares to no type checker
    mean: Tensor
    std: Tensor

    has_weights = True

    def __init__(
        self, pretrained: str, subfolder: str = "vae", dtype: str = "float32", videos_at_once: int = 1
    ) -> None:
        super().__init__()
        if videos_at_once < 1:
            raise ValueError(f"videos_at_once must be at least 1, got {videos_at_once}")
        self.videos_at_once = videos_at_once
        from diffusers import AutoencoderKLWan  # half a second, for those alone who use it

        # diffusers declares its loaders otherwise than it calls them
        load: Callable[..., Any] = load_diffusers_model
        self.model = load(AutoencoderKLWan, pretrained, subfolder, getattr(torch, dtype))
        config = self.model.config
        if config.get("scale_factor_temporal", TEMPORAL_STRIDE) != TEMPORAL_STRIDE:
            raise ValueError(
                f"{pretrained!r} compresses time by {config.scale_factor_temporal}, expected {TEMPORAL_STRIDE}"
            )
        self.stride: int = config.get("scale_factor_spatial", 8)
        self.channels: int = config.z_dim
        refuse_non_finite(self.model.state_dict(), f"the autoencoder in {pretrained!r} is spoilt")
        for name in ("mean", "std"):
            value = torch.tensor(config[f"latents_{name}"], dtype=torch.float32)
            if (
                value.shape != (self.channels,)
                or not value.isfinite().all()
                or (name == "std" and value.min() <= 0)
            ):
                raise ValueError(
                    f"{pretrained!r}: latents_{name} in config.json of {subfolder!r} must be {self.channels} "
                    f"{'positive ' if name == 'std' else ''}numbers, one per channel, is {value.tolist()}"
                )
            self.register_buffer(name, value.view(1, -1, 1, 1, 1), persistent=False)

    def encode(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Video in [-1, 1] -> the mode of the posterior, normalised with the checkpoint's own numbers."""
        with torch.autocast(video.device.type, enabled=False):
            parts = video.to(self.model.dtype).split(self.videos_at_once)
            mode = torch.cat([self.model.encode(part).latent_dist.mode().float() for part in parts])
            return (mode - self.mean) / self.std

    def decode(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Normalised latents -> video in [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            raw = (latents.float() * self.std + self.mean).to(self.model.dtype)
            return torch.cat(
                [self.model.decode(part).sample.float() for part in raw.split(self.videos_at_once)]
            )
