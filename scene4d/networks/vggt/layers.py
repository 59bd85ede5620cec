"""Transformer layers with the parameter names of VGGT (and of DINOv2, from which they come)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.vggt.rope import Rotation, rotate

SHORT = 512  # tokens


def attend(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h l d"], v: Float[Tensor, "b h l d"]
) -> Float[Tensor, "b h l d"]:
    """Softmax attention; short sequences on a CPU by plain products, where the fused backward is slow."""
    if v.device.type != "cpu" or v.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return logits.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention with optional LayerNorm of queries and keys, and optional RoPE.

    Args:
        dim: Channels.
        heads: Number of heads.
        qk_norm: Whether queries and keys are normalised per head (affine LayerNorm).
    """

    def __init__(self, dim: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        if qk_norm:
            self.q_norm = nn.LayerNorm(dim // heads)
            self.k_norm = nn.LayerNorm(dim // heads)
        self.qk_norm = qk_norm
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b l d"], rotation: Rotation | None = None) -> Float[Tensor, "b l d"]:
        """Attends within each row of the batch."""
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(rearrange(out, "b h l d -> b l (h d)"))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned gain per channel."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block; its sum stays in the precision of `x` (fp32 under autocast).

    Args:
        dim: Channels.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `dim`; 0 means attention alone.
        qk_norm: See `Attention`.
        layer_scale: Initial gain of both branches.
        eps: Epsilon of the two LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        layer_scale: float = 0.01,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = LayerScale(dim, layer_scale)
        self.mlp = None
        if mlp_ratio:
            self.norm2 = nn.LayerNorm(dim, eps=eps)
            self.mlp = Mlp(dim, int(dim * mlp_ratio))
            self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, x: Float[Tensor, "b l d"], rotation: Rotation | None = None) -> Float[Tensor, "b l d"]:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x if self.mlp is None else x + self.ls2(self.mlp(self.norm2(x)))


def zero_branches(block: Block) -> Block:
    """Makes a block the exact identity at the start, with gradients in its last layers from step one.

    LayerScale 0 would do the same but train nothing except its own gain at first.
    """
    last = [block.attn.proj] + ([] if block.mlp is None else [block.mlp.fc2])
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return block


def joined(chunks: Iterator[Tensor], count: int) -> Tensor:
    """Concatenates; where no gradient is wanted, a chunk is not kept beside the whole."""
    if torch.is_grad_enabled():
        return torch.cat(list(chunks))
    first = next(chunks)
    joined, end = first.new_empty(count, *first.shape[1:]), len(first)
    joined[:end] = first
    for chunk in chunks:
        joined[end : end + len(chunk)] = chunk
        end += len(chunk)
    return joined
