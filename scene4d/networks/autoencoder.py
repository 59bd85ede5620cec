"""Video autoencoders with 8x spatial and causal temporal compression (`scene4d.latent_grid`) behind one interface.

Images are in [0, 1] everywhere else; the shift to [-1, 1] happens only here.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.kernels.attention import fused_view_time_attention
from scene4d.latent_grid import TEMPORAL_STRIDE, latent_frames


def encode_grid(autoencoder: Any, images: Float[Tensor, "b v t c h w"]) -> Float[Tensor, "b v n z y x"]:
    """Encodes every view of a grid as a video of its own; images in [0, 1], latents normalised to unit scale.

    Raises:
        ValueError: The number of frames is not 4k + 1 or the size is not divisible by 8.
    """
    b, v, t, _, h, w = images.shape
    latent_frames(t)
    if h % 8 or w % 8:
        raise ValueError(f"images are {h} x {w}, both must be divisible by the autoencoder's 8")
    video = rearrange(images, "b v t c h w -> (b v) c t h w")
    return rearrange(autoencoder.encode(video * 2 - 1), "(b v) z n y x -> b v n z y x", b=b, v=v)


def decode_grid(autoencoder: Any, latents: Float[Tensor, "b v n z y x"]) -> Float[Tensor, "b v t c h w"]:
    """Decodes a grid of latents, view by view, to images in [0, 1]."""
    b, v = latents.shape[:2]
    video = autoencoder.decode(rearrange(latents, "b v n z y x -> (b v) z n y x"))
    return rearrange((video + 1) / 2, "(b v) c t h w -> b v t c h w", b=b, v=v).clamp(0, 1)


def autoencoder_fingerprint(autoencoder: nn.Module) -> str:
    """16 hexadecimal digits that tell autoencoders apart: class, and names, shapes and values of all tensors.

    Buffers that no checkpoint holds count (mean and deviation of the latents). Values are rounded to bfloat16, so
    that the same weights are the same autoencoder whatever precision a trainer keeps them in.
    """
    digest = hashlib.sha256(type(autoencoder).__name__.encode())
    for name, tensor in sorted([*autoencoder.named_parameters(), *autoencoder.named_buffers()]):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


class WanAutoencoder(nn.Module):
    """diffusers' `AutoencoderKLWan`, from a public Wan checkpoint.

    Args:
        pretrained: Local folder or hub id in diffusers' layout, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        subfolder: Folder of the autoencoder inside it.
        dtype: float32 or bfloat16.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: str, subfolder: str = "vae", dtype: str = "float32") -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        from scene4d.networks.pretrained import from_pretrained

        self.model: Any = from_pretrained(AutoencoderKLWan, pretrained, subfolder, getattr(torch, dtype))
        for name in ("mean", "std"):
            value = torch.tensor(getattr(self.model.config, f"latents_{name}")).view(1, -1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Video in [-1, 1] -> the mode of the posterior, normalised with the checkpoint's own numbers."""
        return (
            self.model.encode(video.to(self.model.dtype)).latent_dist.mode().float() - self.mean
        ) / self.std

    def decode(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Normalised latents -> video in [-1, 1]."""
        return self.model.decode((latents * self.std + self.mean).to(self.model.dtype)).sample.float()


class PatchAutoencoder(nn.Module):
    """A small causal transformer autoencoder: patches of 8 x 8 pixels x 4 frames (1 for the first frame).

    Nearly all its work is matrix products, which a CPU does best. A linear codec (principal components of the
    patches, `initialize`) runs beside the transformers, which learn what it misses.

    Args:
        channels: Latent channels.
        width: Model width, a multiple of 64.
        depth: Transformer blocks in the encoder and again in the decoder.
        noise: Standard deviation of Gaussian noise on the latents in training, relative to their unit scale;
            keeps the latent space smooth, so that small errors of the diffusion model stay small in pixels.
        refinement: Channels of the convolutions behind the decoder, which smooth what its blocks leave at their
            borders; 0 for none.
        weights: A safetensors file written by this class; None starts from random weights.
    """

    patch = 8
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
        self.encoder = nn.ModuleList(_CausalBlock(width) for _ in range(depth))
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.from_latent = nn.Linear(channels, width)
        self.decoder = nn.ModuleList(_CausalBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head_first = nn.Linear(width, pixels)
        self.head_group = nn.Linear(width, pixels * self.group)
        self.linear_in = nn.ModuleList(
            nn.Linear(n, channels, bias=False) for n in (pixels, pixels * self.group)
        )
        self.linear_out = nn.ModuleList(
            nn.Linear(channels, n, bias=False) for n in (pixels, pixels * self.group)
        )
        last: Any = self.to_latent[-1]
        for layer in (last, self.head_first, self.head_group):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.refine = _Refinement(refinement, self.group) if refinement else nn.Identity()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        if weights is not None:
            from scene4d.networks.pretrained import load_weights

            load_weights(self, weights)

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
        first, rest = self._patches(video)
        tokens = torch.cat([self.embed_first(first), self.embed_group(rest)], 1)
        linear = torch.cat([self.linear_in[0](first), self.linear_in[1](rest)], 1)
        tokens = tokens + _positions(tokens.shape[2], tokens.shape[3], tokens.shape[4], tokens.device)
        for block in self.encoder:
            tokens = block(tokens)
        return rearrange(linear + self.to_latent(tokens), "n m y x z -> n z m y x").float()

    def decode_raw(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Video from latents before normalisation."""
        latents, p = rearrange(latents, "n z m y x -> n m y x z"), self.patch
        tokens = self.from_latent(latents)
        tokens = tokens + _positions(tokens.shape[2], tokens.shape[3], tokens.shape[4], tokens.device)
        for block in self.decoder:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        first = self.head_first(tokens[:, :1]) + self.linear_out[0](latents[:, :1])
        rest = self.head_group(tokens[:, 1:]) + self.linear_out[1](latents[:, 1:])
        first = rearrange(first, "n m y x (c p q) -> n c m (y p) (x q)", p=p, q=p)
        rest = rearrange(rest, "n m y x (g c p q) -> n c (m g) (y p) (x q)", g=self.group, p=p, q=p)
        return self.refine(torch.cat([first, rest], 2).float()) + 1

    def _patches(self, video: Tensor) -> tuple[Float[Tensor, "n 1 y x p"], Float[Tensor, "n m y x gp"]]:
        """Patches of the first frame, and of the groups of four frames after it; white is zero."""
        if video.shape[-2] % self.patch or video.shape[-1] % self.patch:
            height, width = video.shape[-2:]
            raise ValueError(
                f"images are {height} x {width}, both must be divisible by the autoencoder's {self.patch}"
            )
        video, p = video - 1, self.patch
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
            linear_in: Any = self.linear_in[k]
            linear_out: Any = self.linear_out[k]
            count = linear_in.weight.shape[0]
            deviation = energy.flip(0)[:count].clamp(min=1e-9).sqrt()
            basis = basis.flip(1)[:, :count]
            scale = deviation.rsqrt()
            scale = scale / (deviation * scale).square().mean().sqrt()
            linear_in.weight.copy_((basis * scale).T)
            linear_out.weight.copy_(basis / scale)

    def forward(self, video: Float[Tensor, "n c t h w"]) -> tuple[Tensor, Tensor]:
        """Training pass: (reconstruction in about [-1, 1], raw latents)."""
        latents = self.encode_raw(video)
        noisy = latents + self.noise * torch.randn_like(latents) if self.training else latents
        return self.decode_raw(noisy), latents


class _CausalBlock(nn.Module):
    """Attention inside each latent frame, a causal convolution over time (two taps), MLP; pre-norm."""

    def __init__(self, width: int, head: int = 64) -> None:
        super().__init__()
        self.head = head
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.time = nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "n m y x d"]) -> Float[Tensor, "n m y x d"]:
        n, _, height, _, _ = x.shape
        tokens = self.qkv(self.norms[0](x))
        q, k, v = rearrange(tokens, "n m y x (three h d) -> three (n m) (y x) h d", three=3, d=self.head)
        mixed = fused_view_time_attention(q, k, v, grid=(1, 1, q.shape[1]))  # one frame: plain attention
        x = x + self.out(rearrange(mixed, "(n m) (y x) h d -> n m y x (h d)", n=n, y=height))
        now = self.norms[1](x)
        before = torch.cat([torch.zeros_like(now[:, :1]), now[:, :-1]], 1)
        x = x + self.time(torch.cat([before, now], -1))
        return x + self.mlp(self.norms[2](x))


class _Refinement(nn.Module):
    """Four 3 x 3 convolutions over the frames of one latent and the frame before them, added to these frames.

    The first frame stands four times for its latent. The last layer is zero at the start.
    """

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.group = group
        widths = (3 * group + 3, channels, channels, channels, 3 * group)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))
        last: Any = self.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, video: Float[Tensor, "n 3 t h w"]) -> Float[Tensor, "n 3 t h w"]:
        n, first = video.shape[0], video[:, :, :1]
        frames = torch.cat([first.expand(-1, -1, self.group, -1, -1), video[:, :, 1:]], 2)
        frames = rearrange(frames, "n c (m g) h w -> (n m) (g c) h w", g=self.group)
        before = torch.cat([first, video[:, :, : -1 : self.group]], 2)
        x = torch.cat([frames, rearrange(before, "n c m h w -> (n m) c h w")], 1)
        for layer in self.layers[:-1]:
            x = nn.functional.gelu(layer(x))
        frames = rearrange(frames + self.layers[-1](x), "(n m) (g c) h w -> n c (m g) h w", n=n, g=self.group)
        return frames[:, :, self.group - 1 :]


def _positions(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "y x d"]:
    """Sine-cosine position embedding: half of the channels for the row, half for the column."""
    rates = 100.0 ** (-torch.arange(channels // 4, device=device) / (channels // 4))
    rows, columns = (torch.arange(n, device=device)[:, None] * rates for n in (height, width))
    rows, columns = (torch.cat([x.sin(), x.cos()], -1) for x in (rows, columns))
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1)
