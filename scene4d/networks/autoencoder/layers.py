"""The layers of the patch autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.kernels.attention import fused_view_time_attention


class CausalBlock(nn.Module):
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


class Refinement(nn.Module):
    """Four 3 x 3 convolutions over the frames of one latent and the frame before them, added to these frames.

    The first frame stands four times for its latent. The last layer is zero at the start.
    """

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.group = group
        widths = (3 * group + 3, channels, channels, channels, 3 * group)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

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


def positions(tokens: Float[Tensor, "n m y x d"]) -> Float[Tensor, "y x d"]:
    """Sine-cosine position embedding of the tokens: half of the channels for the row, half for the column."""
    height, width, channels = tokens.shape[2:]
    device = tokens.device
    steps = torch.arange(channels // 4, dtype=torch.float32, device=device) / (channels // 4)
    rates = 100.0**-steps
    rows, columns = (torch.arange(n, device=device)[:, None] * rates for n in (height, width))
    rows, columns = (torch.cat([x.sin(), x.cos()], -1) for x in (rows, columns))
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1)
