"""VGGT's camera head: refines the pose of every view in a few iterations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.vggt.layers import Block, Mlp

POSE_SIZE = 9


class CameraHead(nn.Module):
    """Camera tokens to pose encodings (see `scene4d.geometry.pose_encoding`).

    Args:
        dim: Channels of the camera tokens.
        depth: Blocks of the trunk.
        heads: Attention heads.
        iterations: Refinements; every one adds to the pose before it, which is not differentiated through.
        mlp_ratio: Hidden width of the trunk's MLPs over `dim`.
        layer_scale: Initial gain of the residual branches.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 4,
        heads: int = 16,
        iterations: int = 4,
        mlp_ratio: float = 4.0,
        layer_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.trunk = nn.ModuleList(
            Block(dim, heads, mlp_ratio, layer_scale=layer_scale) for _ in range(depth)
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.pose_branch = Mlp(dim, dim // 2, POSE_SIZE)
        start_at_identity(self.pose_branch.fc2, 1 / iterations)

    def forward(
        self, tokens: Float[Tensor, "b v e"], start: Float[Tensor, "b v 9"] | None = None
    ) -> list[Float[Tensor, "b v 9"]]:
        """Returns the pose after every iteration, the last one best; fields of view are not negative.

        It computes in float32 whatever the trainer's precision, as the released VGGT does.

        Args:
            tokens: Camera tokens.
            start: Pose to refine; None means that nothing is known, as in VGGT.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            return self._refine(tokens.float(), start)

    def _refine(
        self, tokens: Float[Tensor, "b v e"], start: Float[Tensor, "b v 9"] | None
    ) -> list[Float[Tensor, "b v 9"]]:
        tokens = self.token_norm(tokens)
        pose = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        total, poses = torch.zeros_like(pose), list[Tensor]()
        if start is not None:
            poses, pose = [start], start.detach()
            total = pose
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, -1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            for block in self.trunk:
                x = block(x)
            total = total + self.pose_branch(self.trunk_norm(x))
            poses.append(torch.cat([total[..., :7], total[..., 7:].relu()], -1))
            total_detached = total.detach()
            pose, total = total_detached, total_detached
        return poses


def start_at_identity(layer: nn.Linear, share: float = 1.0) -> None:
    """Makes an untrained layer say `share` of: no motion, 45 degrees of view."""
    identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0.785, 0.785])
    nn.init.normal_(layer.weight, std=0.02)
    with torch.no_grad():
        layer.bias.copy_(identity * share)
