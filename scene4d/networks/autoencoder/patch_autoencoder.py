"""The autoencoder of the small preset: nearly all of its work is matrix products, which a CPU does best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.latent_grid import TEMPORAL_STRIDE
from scene4d.networks.autoencoder.layers import CausalBlock, Refinement, positions
from scene4d.networks.pretrained import load_weights
from scene4d.networks.sizes import refuse_size


class PatchAutoencoder(nn.Module):
    """A small causal transformer autoencoder: patches of 8 x 8 pixels x 4 frames (1 for the first frame).

    A linear codec (principal components of the patches, see `initialize`) runs beside the transformers, which learn
    what it misses.

    Args:
        channels: Latent channels.
        width: Model width, a multiple of 64.
        depth: Transformer blocks in the encoder and again in the decoder.
        noise: Standard deviation of Gaussian noise on the latents in training, relative to their unit scale. It
            keeps the latent space smooth, so that small errors of the diffusion model stay small in pixels.
        refinement: Channels of the convolutions behind the decoder, which smooth what its blocks leave at their
            borders; 0 for none.
        weights: A safetensors file written by this class; None starts from random weights.
    """

    unused_weights: Sequence[str] = ()  # files must fit exactly
    optional_weights: Sequence[str] = ("",)  # a file may hold a part, for example the linear codec
    patch = stride = 8
    group = TEMPORAL_STRIDE
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int = 32,
        width: int = 256,
        depth: int = 5,
        noise: float = 0.1,
        refinement: int = 0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.noise = noise
        pixels = 3 * self.patch**2
        self.embed_first = nn.Linear(pixels, width)
        self.embed_group = nn.Linear(pixels * self.group, width)
        self.encoder = nn.ModuleList(CausalBlock(width) for _ in range(depth))
        self.channels = channels
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.from_latent = nn.Linear(channels, width)
        self.decoder = nn.ModuleList(CausalBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head_first = nn.Linear(width, pixels)
        self.head_group = nn.Linear(width, pixels * self.group)
        self.linear_in = nn.ModuleList(
            nn.Linear(n, channels, bias=False) for n in (pixels, pixels * self.group)
        )
        self.linear_out = nn.ModuleList(
            nn.Linear(channels, n, bias=False) for n in (pixels, pixels * self.group)
        )
        for layer in (self.to_latent[-1], self.head_first, self.head_group):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.refine = Refinement(refinement, self.group) if refinement else nn.Identity()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.has_weights = weights is not None
        if weights is not None:
            load_weights(self, weights)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks of the encoder and the decoder."""
        return (*self.encoder, *self.decoder)

    def encode(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Video in [-1, 1] -> latents of zero mean and unit variance over the training set.

        White (1) is the zero of the patches: most of an object render is exactly zero.
        """
        raw = self.encode_raw(video)
        return (raw - self.mean.view(1, -1, 1, 1, 1)) / self.std.view(1, -1, 1, 1, 1)

    def decode(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Normalised latents -> video, about in [-1, 1]."""
        return self.decode_raw(latents * self.std.view(1, -1, 1, 1, 1) + self.mean.view(1, -1, 1, 1, 1))

    def encode_raw(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Latents before normalisation."""
        with torch.autocast(video.device.type, enabled=False):
            first, rest = self._patches(video.float())
            tokens = torch.cat([self.embed_first(first), self.embed_group(rest)], 1)
            linear = torch.cat([self.linear_in[0](first), self.linear_in[1](rest)], 1)
            tokens = tokens + positions(tokens)
            for block in self.encoder:
                tokens = block(tokens)
            return rearrange(linear + self.to_latent(tokens), "n m y x z -> n z m y x")

    def decode_raw(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Video from latents before normalisation."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = rearrange(latents.float(), "n z m y x -> n m y x z")
            tokens = self.from_latent(latents)
            tokens = tokens + positions(tokens)
            for block in self.decoder:
                tokens = block(tokens)
            tokens = self.norm(tokens)
            first = self.head_first(tokens[:, :1]) + self.linear_out[0](latents[:, :1])
            rest = self.head_group(tokens[:, 1:]) + self.linear_out[1](latents[:, 1:])
            return self.refine(self._frames(first, rest)) + 1

    def _frames(
        self, first: Float[Tensor, "n 1 y x p"], rest: Float[Tensor, "n m y x gp"]
    ) -> Float[Tensor, "n c t h w"]:
        """The inverse of `_patches`, white still at zero."""
        p = self.patch
        first = rearrange(first, "n m y x (c p q) -> n c m (y p) (x q)", p=p, q=p)
        rest = rearrange(rest, "n m y x (g c p q) -> n c (m g) (y p) (x q)", g=self.group, p=p, q=p)
        return torch.cat([first, rest], 2)

    def _patches(
        self, video: Float[Tensor, "n c t h w"]
    ) -> tuple[Float[Tensor, "n 1 y x p"], Float[Tensor, "n m y x gp"]]:
        """Patches of the first frame, and of the groups of four frames after it; white is zero."""
        size, p = (video.shape[-2], video.shape[-1]), self.patch
        refuse_size("images", size, (p, p), f"the autoencoder's {p}")
        video = video - 1
        first = rearrange(video[:, :, :1], "n c t (y p) (x q) -> n t y x (c p q)", p=p, q=p)
        rest = rearrange(
            video[:, :, 1:], "n c (m g) (y p) (x q) -> n m y x (g c p q)", g=self.group, p=p, q=p
        )
        return first, rest

    @torch.no_grad()
    def initialize(self, video: Float[Tensor, "n c t h w"]) -> None:
        """Sets the linear codec to the principal components of the patches of training videos in [-1, 1].

        Components are scaled by the inverse square root of their deviation, so that latents keep some of the
        order of importance, and all together to unit variance.
        """
        for k, patches in enumerate(self._patches(video)):
            rows = patches.flatten(0, 3).float()
            rows = rows[rows.abs().amax(1) > 0.02]
            energy, basis = torch.linalg.eigh((rows.T @ rows / len(rows)).double())
            linear_in, linear_out = self.linear_in[k], self.linear_out[k]
            assert isinstance(linear_in, nn.Linear) and isinstance(linear_out, nn.Linear)
            count = linear_in.weight.shape[0]
            deviation = energy.flip(0)[:count].clamp(min=1e-9).sqrt()
            basis = basis.flip(1)[:, :count]
            scale = deviation.rsqrt()
            scale = scale / (deviation * scale).square().mean().sqrt()
            linear_in.weight.copy_((basis * scale).T)
            linear_out.weight.copy_(basis / scale)

    def forward(
        self, video: Float[Tensor, "n c t h w"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n c t h w"], Float[Tensor, "n z m y x"]]:
        """Returns the reconstruction, about in [-1, 1], and the raw latents; in training from noisy latents.

        Args:
            video: A video in [-1, 1].
            generator: Draws the noise, on the CPU; None takes torch's own.
        """
        latents = noisy = self.encode_raw(video)
        if self.training:
            noisy = latents + self.noise * torch.randn(latents.shape, generator=generator).to(latents)
        return self.decode_raw(noisy), latents
