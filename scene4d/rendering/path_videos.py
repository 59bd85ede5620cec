"""Videos of a moving set of Gaussians along a camera path, drawn where the Gaussians are."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scene4d.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from scene4d.geometry.trajectories import orbit
from scene4d.rendering.render import render_gaussians
from scene4d.types import Cameras, Gaussians

CameraPath = Literal["orbit", "inputs", "freeze_time", "fixed_view"]
STILL = 48  # pictures of a path through a scene of one timestep
POINTS = 2**20  # enough for a median

WHITE = (1.0, 1.0, 1.0)


@torch.no_grad()
def path_video(
    path: CameraPath,
    frames: list[Gaussians],
    cameras: Cameras,
    size: tuple[int, int],
    rounds: int = 3,
    background: tuple[float, float, float] = WHITE,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Renders a scene along a path. One picture at a time leaves the device of the Gaussians.

    Args:
        path: `orbit` sways along the arc of the input cameras, a little beyond its ends, while time runs; `inputs` goes
            from one input camera to the next and back while time runs; `freeze_time` is the orbit at the first
            timestep; `fixed_view` is the first input camera while time runs once.
        frames: One set of Gaussians per timestep.
        cameras: The input views, `v`.
        size: (height, width), pixels.
        rounds: How often time runs from start to end along `orbit` and `inputs`; a still path has 48 pictures.
        background: RGB in [0, 1].

    Returns:
        The pictures in the order of the path.
    """
    count = rounds * len(frames) if len(frames) > 1 and path != "freeze_time" else STILL
    if path == "fixed_view":
        count = len(frames)
        poses, intrinsics = cameras.c2w[:1].expand(count, 4, 4), cameras.intrinsics[:1]
    elif path == "inputs":
        poses, intrinsics = there_and_back(cameras.c2w, count), cameras.intrinsics.mean(0, keepdim=True)
    else:
        poses = orbit(cameras.c2w, count, target=look_target(frames, cameras))
        intrinsics = cameras.intrinsics.mean(0, keepdim=True)
    pictures = []
    for number in range(count):
        frame = frames[0 if path == "freeze_time" else number % len(frames)]
        camera = Cameras(poses[number : number + 1], intrinsics)
        image = render_gaussians(frame, camera, *size, background).images[0]
        pictures.append((image.float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu())
    return torch.stack(pictures).numpy()


def there_and_back(c2w: Float[Tensor, "v 4 4"], frames: int) -> Float[Tensor, "frames 4 4"]:
    """A loop through the cameras in their order and back, slow at both ends; rotations take the shortest way."""
    phase = torch.arange(frames, dtype=c2w.dtype, device=c2w.device) / frames * 2 * torch.pi
    progress = (0.5 - 0.5 * phase.cos()) * (len(c2w) - 1)
    before = progress.floor().long().clamp(max=max(len(c2w) - 2, 0))
    after, share = (before + 1).clamp(max=len(c2w) - 1), (progress - before)[:, None]
    quats = matrix_to_quaternion(c2w[:, :3, :3])
    first, second = quats[before], quats[after]
    cosine = (first * second).sum(-1, keepdim=True)
    second, angle = torch.where(cosine < 0, -second, second), cosine.abs().clamp(max=1).acos()
    sine = angle.sin()
    near = sine < 1e-4
    weights = [torch.where(near, x, (x * angle).sin() / sine.clamp(min=1e-12)) for x in (1 - share, share)]
    turned = torch.nn.functional.normalize(weights[0] * first + weights[1] * second, dim=-1)
    poses = c2w[before].clone()
    poses[:, :3, :3] = quaternion_to_matrix(turned)
    poses[:, :3, 3] = torch.lerp(c2w[before, :3, 3], c2w[after, :3, 3], share)
    return poses


def look_target(frames: list[Gaussians], cameras: Cameras) -> Float[Tensor, "3"]:
    """The point on the mean viewing axis at the median depth of the Gaussians.

    Unlike the crossing of the axes it does not run away when recovered cameras are nearly parallel.
    """
    position, forward = cameras.c2w[:, :3, 3].mean(0), cameras.c2w[:, :3, 2].mean(0)
    forward = forward / forward.norm().clamp_min(1e-9)
    step = max(1, sum(len(frame.means) for frame in frames) // POINTS)
    depth = (torch.cat([frame.means[::step] for frame in frames]) - position) @ forward
    depth = depth[depth > 0]
    return position + forward * (depth.median() if len(depth) else 1.0)
