"""Cameras of target views by test-time alignment: frozen Gaussians are rendered, and the poses follow the images."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.pipelines.reconstructor import Images, Reconstructor
from scene4d.types import Cameras, Reconstruction


def align_by_rendering(
    pipeline: Reconstructor,
    scene: Reconstruction,
    start: Cameras,
    truth: Images,
    steps: int = 100,
    lr: float = 5e-3,
) -> Cameras:
    """Moves cameras so that what they see of a frozen scene looks like given images, by Adam on the squared error.

    Six numbers of every camera move, its rotation vector (radians) and its place (unit of length of the scene), both
    in its own frame; intrinsics stay. The images that are scored take part. Scores of this are therefore no scores of
    poses, and methods that do without are not to be compared with them.

    Args:
        pipeline: Renders.
        scene: A scene, frozen.
        start: First guess `b r`.
        truth: What the cameras see, `b r t 3 h w`.
        steps: Steps of Adam.
        lr: Learning rate of both halves.
    """
    # Lightning validates in inference mode, whose tensors know no gradients: copies do
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(truth.device.type, enabled=False):
        scene, start = scene.apply(_copied), start.apply(_copied)
        truth = truth.detach().float().clone()
        moved = torch.zeros(*start.c2w.shape[:-2], 6, device=truth.device, requires_grad=True)
        optimizer = torch.optim.Adam([moved], lr=lr)
        for _ in range(steps):
            cameras = Cameras(start.c2w @ _motion(moved), start.intrinsics)
            rendered = pipeline.render(scene.gaussians, cameras, truth.shape[-2:], scene.background)
            optimizer.zero_grad()
            (rendered - truth).square().mean((1, 2, 3, 4, 5)).sum().backward()  # scenes do not share a loss
            optimizer.step()
        return Cameras(start.c2w @ _motion(moved.detach()), start.intrinsics)


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone()


def _motion(moved: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid motions from (rotation vector, translation)."""
    (a, b, c), o = moved[..., :3].unbind(-1), torch.zeros_like(moved[..., 0])
    cross = torch.stack([o, -c, b, c, o, -a, -b, a, o], -1).unflatten(-1, (3, 3))
    top = torch.cat([torch.linalg.matrix_exp(cross), moved[..., 3:, None]], -1)
    bottom = torch.tensor([0.0, 0, 0, 1], device=moved.device).expand(*moved.shape[:-1], 1, 4)
    return torch.cat([top, bottom], -2)
