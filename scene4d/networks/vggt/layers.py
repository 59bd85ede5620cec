"""Transformer layers with the parameter names of VGGT (and of DINOv2, from which they come)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.vggt.rope import Rotation, rotate

SHORT = 512  # tokens
AT_ONCE, AT_ONCE_ON_CPU = (
    2**16,
    2**11,
)  # tokens of a block at once without gradients: enough to fill the device


def attend(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
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
        return self.output(*self.inputs(x, rotation))

    def inputs(
        self, x: Float[Tensor, "b l d"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "b h l d2"], Float[Tensor, "b h l d2"], Float[Tensor, "b h l d2"]]:
        """Queries, keys and values of tokens."""
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q.to(v.dtype), k.to(v.dtype), v

    def output(
        self, q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
    ) -> Float[Tensor, "b l d2"]:
        """The result for some queries and all keys and values."""
        return self.proj(rearrange(attend(q, k, v), "b h l d -> b l (h d)"))


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

    Where nothing needs a gradient it works on some tokens at a time, with the same result. Beside its input and output
    it then holds queries, keys and values of one row at most, and only of rows that are too long to be seen at once.

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
        """Lets the tokens of each row of the batch see each other."""
        count = AT_ONCE_ON_CPU if x.device.type == "cpu" else AT_ONCE
        if x.shape[:2].numel() <= count or needs_gradient(self, x):
            return self._whole(x, rotation)
        rows = max(count // x.shape[1], 1)
        some = self._whole if x.shape[1] <= count else partial(self._in_parts, count=count)
        return joined((some(x[k : k + rows], rotation) for k in range(0, len(x), rows)), len(x))

    def _whole(self, x: Float[Tensor, "b l d"], rotation: Rotation | None) -> Float[Tensor, "b l d"]:
        return self._mix(x + self.ls1(self.attn(self.norm1(x), rotation)))

    def _mix(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return x if self.mlp is None else x + self.ls2(self.mlp(self.norm2(x)))

    def _in_parts(
        self, x: Float[Tensor, "b l d"], rotation: Rotation | None, count: int
    ) -> Float[Tensor, "b l d"]:
        """Some tokens after the others; they attend to all."""
        length = x.shape[1]
        parts = [slice(k, k + count) for k in range(0, length, count)]
        inputs = (torch.stack(self.attn.inputs(self.norm1(x[:, p]), _some(rotation, p))) for p in parts)
        q, k, v = joined(inputs, length, axis=3)
        attended = (x[:, p] + self.ls1(self.attn.output(q[:, :, p], k, v)) for p in parts)
        return joined((self._mix(some) for some in attended), length, axis=1)


def _some(rotation: Rotation | None, tokens: slice) -> Rotation | None:
    return None if rotation is None else (rotation[0][tokens], rotation[1][tokens])


def needs_gradient(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether the backward pass will come to a module."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *module.parameters()))


def zero_branches(block: Block) -> Block:
    """Makes a block the exact identity at the start, with gradients in its last layers from step one.

    LayerScale 0 would do the same but train nothing except its own gain at first.
    """
    last = [block.attn.proj] + ([] if block.mlp is None else [block.mlp.fc2])
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return block


def joined(chunks: Iterator[Tensor], count: int, axis: int = 0) -> Tensor:
    """Concatenates; where no gradient is wanted, a chunk is not kept beside the whole.

    Args:
        chunks: At least one.
        count: The sum of their sizes along the axis.
        axis: Where they are put together, from the front.
    """
    first = next(chunks)
    if first.requires_grad:
        return torch.cat([first, *chunks], axis)
    whole, end = first.new_empty(*first.shape[:axis], count, *first.shape[axis + 1 :]), first.shape[axis]
    whole.narrow(axis, 0, end).copy_(first)
    del first
    for chunk in chunks:
        whole.narrow(axis, end, chunk.shape[axis]).copy_(chunk)
        end += chunk.shape[axis]
    return whole
