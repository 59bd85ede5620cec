"""DINOv2's vision transformer with registers, as VGGT uses it: images to normalised patch tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.vggt.layers import Block


class PatchProjection(nn.Module):
    """Applies one linear map to every patch."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d rows columns"]:
        return self.proj(images)


class VisionTransformer(nn.Module):
    """Patch embedder.

    Args:
        image_size: Side of the images the position table was made for, pixels.
        patch_size: Side of a patch, pixels.
        dim: Channels.
        depth: Blocks.
        heads: Attention heads.
        registers: Extra tokens that take part and are dropped.
        layer_scale: Initial gain of the residual branches.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        registers: int = 4,
        layer_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.side = image_size // patch_size
        self.patch_embed = PatchProjection(dim, patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 1e-6)
        self.register_tokens = nn.Parameter(torch.randn(1, registers, dim) * 1e-6)
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)  # only in released weights
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.side**2, dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dim, heads, layer_scale=layer_scale, eps=1e-6) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n l d"]:
        """Standardised images to patch tokens, row by row."""
        patches = self.patch_embed(images).float()
        rows, columns = patches.shape[-2:]
        x = rearrange(patches, "n d rows columns -> n (rows columns) d")
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self._positions(rows, columns)
        x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + self.register_tokens.shape[1] :]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 l d"]:
        if (rows, columns) == (self.side, self.side):
            return self.pos_embed
        table = rearrange(self.pos_embed[:, 1:].float(), "1 (r c) d -> 1 d r c", r=self.side)
        table = F.interpolate(table, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :1], rearrange(table, "1 d r c -> 1 (r c) d")], 1)
