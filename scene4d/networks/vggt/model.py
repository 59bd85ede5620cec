"""The reconstruction network: VGGT's architecture, temporal attention and a Gaussian head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.geometry.cameras import relative_to_first
from scene4d.geometry.pose_encoding import decode_pose
from scene4d.networks.deferred import given_by_files
from scene4d.networks.vggt.aggregator import AggregatedTokens, Aggregator
from scene4d.networks.vggt.camera_head import CameraHead, start_at_identity
from scene4d.networks.vggt.dpt_head import DPTHead, decode
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS
from scene4d.networks.vggt.layers import Block
from scene4d.networks.vggt.view_matcher import ViewMatcher
from scene4d.types import Cameras, Prediction


class ReconstructionNetwork(nn.Module):
    """VGGT for a view x time grid; the defaults are VGGT-1B, whose released weights load strictly.

    Cameras come from the tokens of the first timestep alone, unless a config says otherwise. This equals replacing the
    camera tokens of every timestep by those of the first ("camera token replacement", sec. 3.2), at 1/T of the cost.

    Args:
        image_size: Side of the images the position table was made for, pixels.
        patch_size: Side of a patch, pixels.
        dim: Channels of the aggregator.
        depth: Pairs of a frame block and a global block.
        heads: Attention heads.
        embedder_depth: Blocks of the patch embedder.
        registers: Register tokens per frame.
        layer_scale: Initial gain of the residual branches; 1 when training from scratch.
        embedder_layer_scale: The same in the patch embedder.
        rope_base: Base of the RoPE frequencies.
        camera_depth: Blocks of the camera head.
        camera_heads: Attention heads of the camera head.
        camera_iterations: Refinements of the pose.
        camera_mlp_ratio: Hidden width of the camera head's MLPs over their width.
        layers: The four pairs that the dense heads read.
        head_channels: Channels of the four layers in the dense heads.
        head_features: Channels of the dense heads' decoder, a multiple of 8.
        head_hidden: Channels before the dense heads' output.
        image_skip: Channels of a direct path from the image into the dense heads; 0 as in VGGT.
        head_chunk: Frames that the dense heads decode at once, fewer if these have over 2**18 pixels; 0 means all.
        point_head: Whether point maps are predicted.
        gaussian_head: Whether the 14 Gaussian parameters of every pixel are predicted.
        temporal: Whether temporal attention follows each pair of frame and global attention.
        temporal_after_frame: Whether temporal attention follows each frame block, too.
        temporal_rope: Whether temporal attention knows the order of time; the paper does not say.
        temporal_mlp_ratio: Hidden width of the temporal blocks' MLPs over `dim`; 0 means attention alone.
        camera_token_replacement: Whether a view has one camera, that of the first timestep. Otherwise every timestep
            has its own, which places its Gaussians; the scene is seen from those of the first. Table 6's ablation.
        match_views: Whether neighbouring views are matched explicitly, for small networks; not part of VGGT.
        match_width: Channels of the matcher's encoder.
    """

    unused_weights: Sequence[str] = ("track_head.", "point_head.")  # of VGGT-1B
    float32_parts: Sequence[str] = ("camera_head",)  # their blocks are never gathered in half precision
    optional_weights: Sequence[str] = (
        "aggregator.temporal",
        "aggregator.matcher.",
        "gaussian_head.",
    )  # not in it

    def __init__(
        self,
        image_size: int = 518,
        patch_size: int = 14,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        embedder_depth: int = 24,
        registers: int = 4,
        layer_scale: float = 0.01,
        embedder_layer_scale: float = 1.0,
        rope_base: float = 100.0,
        camera_depth: int = 4,
        camera_heads: int = 16,
        camera_iterations: int = 4,
        camera_mlp_ratio: float = 4.0,
        layers: Sequence[int] = (4, 11, 17, 23),
        head_channels: Sequence[int] = (256, 512, 1024, 1024),
        head_features: int = 256,
        head_hidden: int = 32,
        image_skip: int = 0,
        head_chunk: int = 8,
        point_head: bool = True,
        gaussian_head: bool = True,
        temporal: bool = True,
        temporal_after_frame: bool = False,
        temporal_rope: bool = False,
        temporal_mlp_ratio: float = 4.0,
        camera_token_replacement: bool = True,
        match_views: bool = False,
        match_width: int = 96,
    ) -> None:
        super().__init__()
        self.has_weights, self.camera_token_replacement = False, camera_token_replacement
        self.image_size, self.patch_size = image_size, patch_size
        self.aggregator = Aggregator(
            image_size, patch_size, dim, depth, heads, embedder_depth, registers, layer_scale,
            embedder_layer_scale, rope_base, temporal, temporal_after_frame, temporal_rope, temporal_mlp_ratio,
            ViewMatcher(dim, patch_size, match_width) if match_views else None, layers,
        )  # fmt: skip
        with given_by_files():
            self.camera_head = CameraHead(
                2 * dim, camera_depth, camera_heads, camera_iterations, camera_mlp_ratio, layer_scale
            )
        if match_views:  # the head refines the matcher's guess instead of starting from nothing
            start_at_identity(self.camera_head.pose_branch.fc2, 0.0)
            self.camera_head.empty_pose_tokens.requires_grad_(False)  # what the head starts from otherwise

        def dense(out: int, output_scale: float = 0.0) -> DPTHead:
            return DPTHead(
                2 * dim, out, layers, head_channels, head_features, head_hidden, patch_size, image_skip,
                chunk=head_chunk, output_scale=output_scale,
            )  # fmt: skip

        with given_by_files():
            self.depth_head = dense(2, output_scale=0.01)
            self.point_head = dense(4) if point_head else None
        self.gaussian_head = dense(GAUSSIAN_CHANNELS, output_scale=0.003) if gaussian_head else None

    @property
    def blocks(self) -> list[nn.Module]:
        """All transformer blocks: of the patch embedder, of the aggregator, and of the camera head."""
        return [module for module in self.modules() if isinstance(module, Block)]

    @property
    def heads(self) -> list[nn.Module]:
        """The dense heads, which see some frames at a time; the backward pass may compute them again, too."""
        return [module for module in self.modules() if isinstance(module, DPTHead)]

    def forward(self, images: Float[Tensor, "b v t 3 h w"]) -> Prediction:
        """Images in [0, 1] to cameras, depth and raw Gaussian parameters."""
        tokens = self.aggregator(images)
        matched, timesteps = tokens.matched, images.shape[2]
        poses, cameras = self._cameras(tokens, timesteps, tuple(images.shape[-2:]))
        depths, confidence = self._depths(tokens, images)
        points = None
        if self.point_head is not None:
            raw = decode(self.point_head, tokens, images)[:, :, :, :3]
            points = rearrange(raw.sign() * raw.abs().expm1(), "b v t c h w -> b v t h w c")
        return Prediction(
            cameras=cameras[:, :, 0],
            poses=poses,
            depths=depths,
            depth_confidence=confidence,
            points=points,
            gaussians=None if self.gaussian_head is None else decode(self.gaussian_head, tokens, images),
            match_features=None if matched is None else matched.features.unflatten(0, (-1, timesteps)),
            timestep_cameras=None if self.camera_token_replacement else cameras,
        )

    def _cameras(
        self, tokens: AggregatedTokens, timesteps: int, size: tuple[int, ...]
    ) -> tuple[list[Float[Tensor, "b v 9"]], Cameras]:
        """Poses of the first timestep after every iteration; the last cameras `b v t` of that or of all timesteps."""
        wanted = 1 if self.camera_token_replacement else timesteps
        start = None if tokens.matched is None else tokens.matched.poses.unflatten(0, (-1, timesteps))
        guess = None if start is None else start[:, :wanted].flatten(0, 1)
        poses = [
            x.unflatten(0, (-1, wanted))
            for x in self.camera_head(tokens.camera[:, :wanted].flatten(0, 1), guess)
        ]
        with torch.autocast(tokens.camera.device.type, enabled=False):
            cameras = decode_pose(poses[-1], size[0], size[1])
            cameras = Cameras(relative_to_first(cameras.c2w), cameras.intrinsics)
        return [x[:, 0] for x in poses], cameras.apply(lambda x: x.transpose(1, 2))

    def _depths(
        self, tokens: AggregatedTokens, images: Float[Tensor, "b v t 3 h w"]
    ) -> tuple[Float[Tensor, "b v t h w"], Float[Tensor, "b v t h w"]]:
        """Depths and their confidence."""
        depth, confidence = decode(self.depth_head, tokens, images).unbind(3)
        return depth.clamp(max=20).exp(), 1 + confidence.clamp(max=20).exp()
