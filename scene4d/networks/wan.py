"""diffusers' `WanTransformer3DModel` on a view x time grid, without a new parameter (paper, sec. 3.1).

The base model is wrapped, not rewritten: an attention processor of our own on the self-attention, a rotary
embedding that collapses view and time to one axis, and reference latents through the patch embedding.
The grid (V, T, S) travels beside the rotary embedding; processors keep no state of a call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scene4d.kernels.attention import fused_view_time_attention
from scene4d.networks.pretrained import from_pretrained, load_weights

Grid = tuple[int, int, int]

WAN_TEXT_LENGTH = 512


class GridRotaryEmbedding(nn.Module):
    """Wan's rotary embedding at t' = v * t_max + t (paper, sec. 3.1 "Positional embedding").

    The same numbers as diffusers' table, computed on the fly in float64: positions have no limit.

    Args:
        head_dim: Channels of an attention head.
        patch_size: Of the base model, (time, height, width).
        theta: Base of the frequencies.
    """

    def __init__(self, head_dim: int, patch_size: tuple[int, int, int], theta: float = 10000.0) -> None:
        super().__init__()
        space = 2 * (head_dim // 6)
        self.dims = (head_dim - 2 * space, space, space)
        self.patch_size, self.theta = tuple(patch_size), theta
        self.views, self.max_latent_frames = 1, 0

    def forward(self, latents: Float[Tensor, "b c n y x"]) -> tuple[Tensor, Tensor, Grid]:
        """Returns (cos, sin), each `1 l 1 head_dim`, and the grid (V, T, S) for the attention processors."""
        sizes = [n // p for n, p in zip(latents.shape[2:], self.patch_size)]
        device = latents.device
        frames = torch.arange(sizes[0], device=device)
        times = sizes[0] // self.views
        positions = [
            (frames // times) * self.max_latent_frames + frames % times if self.views > 1 else frames,
            torch.arange(sizes[1], device=device),
            torch.arange(sizes[2], device=device),
        ]
        angles = [self._angles(d, p) for d, p in zip(self.dims, positions)]
        parts = []
        for axis, angle in enumerate(angles):
            shape = [1, 1, 1, -1]
            shape[axis] = sizes[axis]
            parts.append(angle.view(shape).expand(*sizes, -1))
        full = rearrange(torch.cat(parts, -1), "n y x d -> 1 (n y x) 1 d")
        return full.cos().float(), full.sin().float(), (self.views, times, sizes[1] * sizes[2])

    def _angles(self, dim: int, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        return torch.outer(positions.double(), 1.0 / self.theta**exponents).repeat_interleave(2, dim=1)


class FusedViewTimeProcessor:
    """Self-attention in which a token sees its own view and its own timestep (paper, Eq. 1).

    With one view or one timestep this is plain attention.
    """

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor, Grid] | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is None and rotary_emb is not None, "a processor for self-attention only"
        cos, sin, grid = rotary_emb
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        v = attn.to_v(hidden_states)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=attn.heads) for x in (q, k, v))
        out = fused_view_time_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, grid=grid, backend=self.backend
        )
        return attn.to_out[1](attn.to_out[0](rearrange(out, "b l h d -> b l (h d)").type_as(hidden_states)))


def rotate(x: Float[Tensor, "b l h d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b l h d"]:
    """Rotary embedding on neighbouring pairs of channels, as diffusers' Wan does it."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).type_as(x)


class WanGridTransformer(nn.Module):
    """The 4D video network: (noisy grid, noise level, text, references) -> prediction for the grid.

    Args:
        pretrained: Local folder or hub id of a Wan checkpoint in diffusers' layout. The sizes below are then
            read from its config.json and ignored here.
        subfolder: Folder of the transformer inside `pretrained`.
        weights: A safetensors file of this network, for sizes given here; None starts from random weights.
        patch_size: Latent patch (time, height, width).
        num_attention_heads: Heads of every attention.
        attention_head_dim: Channels a head.
        in_channels: Latent channels.
        text_dim: Channels of the caption embedding.
        freq_dim: Channels of the sinusoidal noise-level embedding.
        ffn_dim: Hidden channels of the feed-forward layers.
        num_layers: Transformer blocks.
        max_latent_frames: Stride t_max of views in position space; the base's own maximum (Wan: 21 latent
            frames = 81 frames), so that positions stay put when the duration grows between stages.
        attention: "auto", or another backend of `fused_view_time_attention`.
        text_length: Captions are padded with zeros to so many tokens, which are attended to: Wan was trained so,
            with 512, and a sample must not depend on the captions beside it in its batch. None = 512 with
            `pretrained`, else 1 (a sentence embedding).
        reference_bias: Add the patch embedding of references with its bias, as the paper's words have it, or
            without.
        gradient_checkpointing: Recompute blocks in the backward pass.
        dtype: Of the weights: float32 or bfloat16.
    """

    base: Any  # a WanTransformer3DModel

    def __init__(
        self,
        pretrained: str | None = None,
        subfolder: str = "transformer",
        weights: str | None = None,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 4,
        attention_head_dim: int = 64,
        in_channels: int = 32,
        text_dim: int = 384,
        freq_dim: int = 256,
        ffn_dim: int = 1024,
        num_layers: int = 8,
        max_latent_frames: int = 21,
        attention: str = "auto",
        text_length: int | None = None,
        reference_bias: bool = True,
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if pretrained is not None:
            self.base = from_pretrained(WanTransformer3DModel, pretrained, subfolder, getattr(torch, dtype))
        else:
            self.base = WanTransformer3DModel(
                patch_size=tuple(patch_size), num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim, in_channels=in_channels, out_channels=in_channels,
                text_dim=text_dim, freq_dim=freq_dim, ffn_dim=ffn_dim, num_layers=num_layers,
            )  # fmt: skip
            initialize(self.base)
        # then files given to `VideoDiffusion.initial_weights` may hold a part
        self.has_weights = pretrained is not None or weights is not None
        self.text_length = text_length or (1 if pretrained is None else WAN_TEXT_LENGTH)
        self.max_latent_frames, self.reference_bias = max_latent_frames, reference_bias
        config = self.base.config
        self.base.rope = GridRotaryEmbedding(config.attention_head_dim, config.patch_size)
        self.base.set_attn_processor(
            {
                name: FusedViewTimeProcessor(attention) if ".attn1." in name else WanAttnProcessor()
                for name in self.base.attn_processors
            }
        )
        if gradient_checkpointing:
            self.base.enable_gradient_checkpointing()
        if weights is not None:
            load_weights(self, weights)

    def forward(
        self,
        latents: Float[Tensor, "b v n z y x"],
        sigmas: Float[Tensor, " b"],
        text: Float[Tensor, "b l d"] | None = None,
        references: Float[Tensor, "b v n z y x"] | None = None,
        reference_mask: Bool[Tensor, "b v n"] | None = None,
    ) -> Float[Tensor, "b v n z y x"]:
        """Predicts velocity (or data, as the objective reads it) for every latent of the grid.

        Args:
            latents: Noisy latents, n latent frames a view.
            sigmas: Noise level of every grid, in [0, 1].
            text: Caption embedding, at most `text_length` tokens; zeros at padding. None = no caption.
            references: Clean latents; only those under `reference_mask` are used.
            reference_mask: True where the latent is given.

        Raises:
            ValueError: Size not divisible by the patch, more latent frames than `max_latent_frames`, or more
                tokens of text than `text_length`.
        """
        b, v, n, _, y, x = latents.shape
        self._check(v, n, y, x)
        text = latents.new_zeros(b, 0, self.base.config.text_dim) if text is None else text
        text = self._padded(text)
        self.base.rope.views, self.base.rope.max_latent_frames = v, self.max_latent_frames
        hook = None
        if references is not None and reference_mask is not None:
            hook = self.base.patch_embedding.register_forward_hook(
                self._add_references(references, reference_mask)
            )
        try:
            out = self.base(_flatten(latents), sigmas * 1000, text, return_dict=False)[0]
        finally:
            if hook is not None:
                hook.remove()
        return rearrange(out, "b z (v n) y x -> b v n z y x", v=v)

    def compile_blocks(self) -> None:
        """Compiles the repeated block with torch.compile: once for all blocks, far sooner than the network whole."""
        for block in self.base.blocks:
            block.compile()

    def _add_references(self, references: Tensor, reference_mask: Tensor):
        """Hook on the patch embedding: + mask * embedding(reference) (paper, "Grounded generation")."""
        mask = rearrange(reference_mask, "b v n -> b 1 (v n) 1 1")

        def add(module: nn.Conv3d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            bias = module.bias if self.reference_bias else None
            # the functional form: the module itself would call this hook again
            embedded = F.conv3d(_flatten(references), module.weight, bias, module.stride)
            return output + mask.to(output.dtype) * embedded.to(output.dtype)

        return add

    def _padded(self, text: Float[Tensor, "b l d"]) -> Float[Tensor, "b text_length d"]:
        if text.shape[1] > self.text_length:
            raise ValueError(f"a caption has {text.shape[1]} tokens, text_length is {self.text_length}")
        return F.pad(text, (0, 0, 0, self.text_length - text.shape[1]))

    def _check(self, views: int, frames: int, height: int, width: int) -> None:
        _, ph, pw = self.base.config.patch_size
        if height % ph or width % pw:
            raise ValueError(
                f"latents are {height} x {width}, both must be divisible by the patch {ph} x {pw}"
            )
        if views > 1 and frames > self.max_latent_frames:
            raise ValueError(
                f"{frames} latent frames exceed max_latent_frames = {self.max_latent_frames}: positions would collide"
            )


@torch.no_grad()
def initialize(base: Any) -> None:
    """Initialisation for training from scratch (public checkpoints need none): open gates, silent branches.

    Every block starts as the identity (zero output projections) under gates of one, and the output as zero
    (DiT's adaLN-zero, with the zeros where they get a gradient at the first step).
    """
    projection = base.condition_embedder.time_proj
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    gates = projection.bias.view(6, -1)
    gates[2], gates[5] = 1, 1
    for block in base.blocks:
        block.scale_shift_table.zero_()
        for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    base.scale_shift_table.zero_()
    nn.init.zeros_(base.proj_out.weight)
    nn.init.zeros_(base.proj_out.bias)


def _flatten(grid: Float[Tensor, "b v n z y x"]) -> Float[Tensor, "b z vn y x"]:
    return rearrange(grid, "b v n z y x -> b z (v n) y x")
