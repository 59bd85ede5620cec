"""Grids of latents to tokens and back."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Patch = tuple[int, int, int]


class ReferencePatchEmbedding(nn.Conv3d):
    """The base model's patch embedding, which also adds references (paper, "Grounded generation").

    It has the parameters of the base's own layer, under the same names, and is the base's layer without references.

    Args:
        embedding: The base's layer, whose parameters are taken over.
        reference_bias: Whether references are embedded with the layer's bias.
    """

    def __init__(self, embedding: nn.Conv3d, reference_bias: bool) -> None:
        kernel, stride = ((t, h, w) for t, h, w in (embedding.kernel_size, embedding.stride))
        # on the meta device nothing is drawn and nothing allocated
        super().__init__(embedding.in_channels, embedding.out_channels, kernel, stride, device="meta")
        self.weight, self.bias = embedding.weight, embedding.bias
        self.reference_bias = reference_bias

    def forward(  # a grid, not a video
        self,
        latents: Float[Tensor, "b v n z y x"],
        references: Float[Tensor, "b v n z y x"] | None = None,
        reference_mask: Bool[Tensor, "b v n"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Embeds the latents, and adds the embedding of the references where the mask is True."""
        embedded = super().forward(_one_video(latents))
        if references is not None and reference_mask is not None:
            mask = rearrange(reference_mask, "b v n -> b 1 (v n) 1 1").to(embedded.dtype)
            bias = self.bias if self.reference_bias else None
            given = F.conv3d(_one_video(references), self.weight, bias, self.stride)
            embedded = embedded + mask * given.to(embedded.dtype)
        return rearrange(embedded, "b d n y x -> b (n y x) d").contiguous()


def grid_of(
    patches: Float[Tensor, "b l e"], latents: Float[Tensor, "b v n z y x"], patch: Patch
) -> Float[Tensor, "b v n z y x"]:
    """Puts the patches that the base predicts for every token together to a grid in the shape of `latents`."""
    _, v, _, _, y, x = latents.shape
    t, h, w = patch
    return rearrange(
        patches, "b (v n y x) (t h w z) -> b v (n t) z (y h) (x w)", v=v, y=y // h, x=x // w, t=t, h=h, w=w
    )


def _one_video(grid: Float[Tensor, "b v n z y x"]) -> Float[Tensor, "b z vn y x"]:
    return rearrange(grid, "b v n z y x -> b z (v n) y x")
