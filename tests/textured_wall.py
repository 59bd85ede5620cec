"""A synthetic scene for tests of the reconstruction, and a network that takes milliseconds."""

import torch

from scene4d.geometry.cameras import pixel_rays
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.types import Cameras, SceneBatch

SIZE = 32
TINY = {
    "image_size": SIZE, "patch_size": 8, "dim": 16, "depth": 4, "heads": 2, "embedder_depth": 1,
    "registers": 1, "layer_scale": 1.0, "camera_depth": 1, "camera_heads": 2, "camera_iterations": 2,
    "layers": [0, 1, 2, 3], "head_channels": [8, 8, 8, 8], "head_features": 8, "head_hidden": 8,
    "image_skip": 4, "point_head": False, "match_views": True, "match_width": 16,
}  # fmt: skip


def make_network() -> ReconstructionNetwork:
    """A tiny network with a view matcher and a Gaussian head, always the same."""
    torch.manual_seed(0)
    return ReconstructionNetwork(**TINY)


def make_batch(
    b: int = 1, inputs: int = 3, targets: int = 2, t: int = 2, wall_depth: float = 2.0, endless: bool = False
) -> SceneBatch:
    """Cameras turning around z = 2 before a textured wall, endless or with a white, unknown border."""
    views = inputs + targets
    c2w = torch.eye(4).repeat(b, views, 1, 1)
    for v in range(views):
        angle = torch.tensor(0.08 * v)
        turn = torch.tensor([[angle.cos(), 0, -angle.sin()], [0, 1, 0], [angle.sin(), 0, angle.cos()]])
        c2w[:, v, :3, :3] = turn
        c2w[:, v, :3, 3] = torch.tensor([0, 0, 2.0]) - turn @ torch.tensor([0, 0, 2.0])
    intrinsics = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]]).repeat(b, views, 1, 1)
    directions = torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], pixel_rays(intrinsics, SIZE, SIZE))
    depth = (wall_depth - c2w[..., None, None, 2, 3]) / directions[..., 2]
    points = c2w[..., None, None, :3, 3] + depth[..., None] * directions
    wall = (points[..., :2].abs().amax(-1) < 0.55) | endless
    color = 0.5 + 0.4 * torch.sin(
        torch.stack([7 * points[..., 0], 9 * points[..., 1], 5 * points.sum(-1)], -1)
    )
    images = torch.where(wall[..., None], color, torch.ones(())).permute(0, 1, 4, 2, 3)
    reference = torch.zeros(b, views, t, dtype=torch.bool)
    reference[:, :inputs] = True
    order = [0, views - 1, *range(1, views - 1)][:views]  # targets lie inside the span of the inputs
    return SceneBatch(
        images=images[:, order, None].expand(-1, -1, t, -1, -1, -1).contiguous(),
        cameras=Cameras(c2w, intrinsics)[:, order],
        frame_times=torch.arange(t).expand(b, t) / 12,
        reference=reference,
        source=["objects"] * b,
        keys=[f"scene{k}" for k in range(b)],
        depths=torch.where(wall, depth, 0)[:, order, None].expand(-1, -1, t, -1, -1).contiguous(),
    )
