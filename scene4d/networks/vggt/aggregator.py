"""VGGT's alternating attention over a view x time grid, with temporal attention between timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.deferred import given_by_files
from scene4d.networks.vggt.layers import Block, zero_branches
from scene4d.networks.vggt.rope import Rotation, patch_rotation, time_rotation
from scene4d.networks.vggt.view_matcher import MatchedTokens, ViewMatcher
from scene4d.networks.vggt.vision_transformer import VisionTransformer

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class AggregatedTokens:
    """The tokens that the heads read.

    Attributes:
        layers: Frame output and global output of a layer side by side, by its index; without special tokens.
        camera: Camera tokens of the last layer.
        rows: Patches along y.
        columns: Patches along x.
        matched: Additions of the optional view matcher, see `ViewMatcher`; its n runs over (b t).
    """

    layers: dict[int, Float[Tensor, "b t v l e"]]
    camera: Float[Tensor, "b t v e"]
    rows: int
    columns: int
    matched: MatchedTokens | None = None


class Aggregator(nn.Module):
    """Frame, global and temporal attention in turn.

    Global attention runs over the V frames of one timestep, temporal attention over the T tokens at the
    same view and position.

    Args:
        image_size: Side of the images the position table was made for, pixels.
        patch_size: Side of a patch, pixels.
        dim: Channels.
        depth: Pairs of a frame block and a global block.
        heads: Attention heads.
        embedder_depth: Blocks of the patch embedder.
        registers: Register tokens per frame.
        layer_scale: Initial gain of the residual branches (VGGT: 0.01).
        embedder_layer_scale: The same in the patch embedder.
        rope_base: Base of the RoPE frequencies.
        temporal: Whether one temporal attention block follows each pair; it is the identity at the start.
        temporal_after_frame: Whether another one follows each frame block.
        temporal_rope: Whether temporal attention knows the order of time; the paper does not say.
        temporal_mlp_ratio: Hidden width of the temporal blocks' MLPs over `dim`; 0 means attention alone.
        matcher: Explicit matching between views in front of the blocks; None as in VGGT.
        layers: The pairs whose outputs are kept for the dense heads.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        embedder_depth: int,
        registers: int,
        layer_scale: float,
        embedder_layer_scale: float,
        rope_base: float,
        temporal: bool,
        temporal_after_frame: bool,
        temporal_rope: bool,
        temporal_mlp_ratio: float,
        matcher: ViewMatcher | None,
        layers: Sequence[int],
    ) -> None:
        super().__init__()
        if max(layers) >= depth:
            raise ValueError(f"layers {list(layers)} exceed the aggregator's depth {depth}")
        self.patch_size, self.kept, self.rope_base = patch_size, tuple(layers), rope_base
        self.head_dim, self.temporal_rope = dim // heads, temporal_rope
        with given_by_files():  # all that VGGT has
            self.patch_embed = VisionTransformer(
                image_size, patch_size, dim, embedder_depth, heads, layer_scale=embedder_layer_scale
            )
            self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 0.02)
            self.register_token = nn.Parameter(torch.randn(1, 2, registers, dim) * 0.02)

        def blocks(scale: float, mlp_ratio: float = 4.0) -> list[Block]:
            return [Block(dim, heads, mlp_ratio, qk_norm=True, layer_scale=scale) for _ in range(depth)]

        def over_time() -> nn.ModuleList:
            return nn.ModuleList(map(zero_branches, blocks(1.0, temporal_mlp_ratio)))

        with given_by_files():
            self.frame_blocks, self.global_blocks = (nn.ModuleList(blocks(layer_scale)) for _ in range(2))
        self.temporal_blocks = over_time() if temporal else None
        self.temporal_frame_blocks = over_time() if temporal_after_frame else None
        self.matcher = matcher
        for name, value in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            table = torch.tensor(value, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, table, persistent=False)

    def forward(self, images: Float[Tensor, "b v t 3 h w"]) -> AggregatedTokens:
        """Images in [0, 1] to tokens.

        Raises:
            ValueError: Height or width is no multiple of the patch size.
        """
        b, v, t, _, h, w = images.shape
        if h % self.patch_size or w % self.patch_size:
            raise ValueError(f"images of {h}x{w} cannot be cut into patches of {self.patch_size} pixels")
        rows, columns = h // self.patch_size, w // self.patch_size
        frames = rearrange(images, "b v t c h w -> (b t) v c h w")
        matched = None if self.matcher is None else self.matcher(frames, rows, columns)
        special = 1 + self.register_token.shape[2]
        rotation = patch_rotation(rows, columns, special, self.head_dim, self.rope_base, images.device)
        # no name for the tokens here: it would keep them until the end
        layers, camera = self._attend(
            rearrange(self._tokens(self._embed(frames), matched), "(b t) v l d -> b t v l d", b=b),
            rotation,
            special,
        )
        return AggregatedTokens(layers, camera, rows, columns, matched)

    def _embed(self, frames: Float[Tensor, "n v 3 h w"]) -> Float[Tensor, "n v l d"]:
        standardised = (frames.flatten(0, 1) - self.image_mean) / self.image_std
        return self.patch_embed(standardised).unflatten(0, frames.shape[:2])

    def _tokens(
        self, patches: Float[Tensor, "n v l d"], matched: MatchedTokens | None
    ) -> Float[Tensor, "n v m d"]:
        """Puts [camera, registers] in front; index 0 is for the first view, index 1 for all others."""
        n, v = patches.shape[:2]
        index = torch.arange(v, device=patches.device).clamp(max=1)
        camera = self.camera_token[:, index].expand(n, -1, -1, -1)
        registers = self.register_token[:, index].expand(n, -1, -1, -1)
        if matched is not None:
            camera, patches = camera + matched.camera, patches + matched.patches
        return torch.cat([camera, registers, patches.to(camera.dtype)], 2)

    def _attend(
        self, x: Float[Tensor, "b t v l d"], rotation: Rotation, special: int
    ) -> tuple[dict[int, Float[Tensor, "b t v p e"]], Float[Tensor, "b t v e"]]:
        b, t, v, _, _ = x.shape
        everywhere: Rotation = (rotation[0].repeat(v, 1, 1), rotation[1].repeat(v, 1, 1))
        time = time_rotation(t, self.head_dim, self.rope_base, x.device) if self.temporal_rope else None
        layers = {}
        for k, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks)):
            x = frame_block(rearrange(x, "b t v l d -> (b t v) l d"), rotation)
            x = rearrange(x, "(b t v) l d -> b t v l d", b=b, t=t)
            if self.temporal_frame_blocks is not None:
                x = attend_over_time(self.temporal_frame_blocks[k], x, time)
            after_frame = x if k in self.kept or k == len(self.frame_blocks) - 1 else None
            x = global_block(rearrange(x, "b t v l d -> (b t) (v l) d"), everywhere)
            x = rearrange(x, "(b t) (v l) d -> b t v l d", b=b, v=v)
            if self.temporal_blocks is not None:
                x = attend_over_time(self.temporal_blocks[k], x, time)
            if after_frame is not None and k in self.kept:
                layers[k] = torch.cat([after_frame[..., special:, :], x[..., special:, :]], -1)
        assert after_frame is not None
        return layers, torch.cat([after_frame[..., 0, :], x[..., 0, :]], -1)


def attend_over_time(
    block: nn.Module, x: Float[Tensor, "b t v l d"], rotation: Rotation | None
) -> Float[Tensor, "b t v l d"]:
    """Lets every token see the tokens at its own view and position in all timesteps."""
    b, _, v, _, _ = x.shape
    sequences = rearrange(x, "b t v l d -> (b v l) t d")
    return rearrange(block(sequences, rotation), "(b v l) t d -> b t v l d", b=b, v=v)
