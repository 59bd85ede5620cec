"""The self-attention that replaces the base model's, as an attention processor of diffusers."""

from __future__ import annotations

from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.kernels.attention import fused_view_time_attention
from scene4d.kernels.view_parallel_attention import view_parallel_attention
from scene4d.networks.wan.positions import GridPositions, rotate


class FusedViewTimeProcessor:
    """Self-attention in which a token sees its own view and its own timestep (paper, Eq. 1).

    With one view or one timestep this is plain attention. The views may be split over ranks (`GridPositions.part`).

    Args:
        backend: Backend of `fused_view_time_attention`.
    """

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Float[Tensor, "b l d"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: GridPositions | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Attends within one grid; names and order of the arguments are those of diffusers' processors."""
        assert encoder_hidden_states is None and rotary_emb is not None, "a processor for self-attention only"
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        v = attn.to_v(hidden_states)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=attn.heads) for x in (q, k, v))
        q, k, part = rotate(q, rotary_emb), rotate(k, rotary_emb), rotary_emb.part
        if part is None:
            out = fused_view_time_attention(q, k, v, rotary_emb.grid, backend=self.backend)
        else:
            out = view_parallel_attention(
                q, k, v, rotary_emb.grid, part.ranks, part.group, backend=self.backend
            )
        return attn.to_out[1](attn.to_out[0](rearrange(out, "b l h d -> b l (h d)").type_as(hidden_states)))
