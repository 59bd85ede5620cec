"""Raw output of the Gaussian head, depth and cameras to Gaussians (sec. 3.2 and Appendix C)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import pixel_rays, transform
from scene4d.geometry.rotations import matrix_to_quaternion, quaternion_multiply
from scene4d.types import Cameras, Gaussians, Prediction

CHANNEL_SIZES = (3, 1, 3, 4, 3)  # position refinement, opacity, scales, rotation, colour offsets
GAUSSIAN_CHANNELS = sum(CHANNEL_SIZES)


def gaussians_from_maps(
    raw: Float[Tensor, "b v t c h w"],
    images: Float[Tensor, "b v t 3 h w"],
    depths: Float[Tensor, "b v t h w"],
    cameras: Cameras,
    pixel_scale: float = 0.3,
    opacity_shift: float = 2.0,
    offset_shift: float = 6.0,
) -> Gaussians:
    """Turns maps into Gaussians: one per pixel, all views of a timestep in one set.

    Rotations are predicted in the camera frame and turned by the camera's rotation. Scales are in units of
    one pixel's footprint at the Gaussian's depth (depth / focal), so an untrained head already makes splats
    of the right size, whatever the scene's.

    Args:
        raw: Output of the Gaussian head, 14 channels: see `CHANNEL_SIZES`.
        images: Input frames in [0, 1]; the colours that the offsets refine.
        depths: Planar z of every pixel, positive.
        cameras: One per view, `b v`, shared by all timesteps, or `b v t`.
        pixel_scale: Standard deviation, in pixels, at a raw scale of 0.
        opacity_shift: Logit of the opacity at a raw opacity of 0.
        offset_shift: Splatt3r's: larger means finer position refinements.

    Returns:
        Gaussians `b t (v h w)` in the cameras' world.
    """
    maps = rearrange(raw.float(), "b v t c h w -> b v t h w c")
    offset, opacity, scale, rotation, color = maps.split(CHANNEL_SIZES, -1)
    shared = cameras[:, :, None] if cameras.c2w.ndim == 4 else cameras
    rays = pixel_rays(shared.intrinsics, *depths.shape[-2:])
    means = transform(shared.c2w, depths[..., None] * rays + smooth_offset(offset, offset_shift))
    footprint = (depths / shared.intrinsics[..., 0, 0, None, None])[..., None]
    upright = torch.tensor([1.0, 0, 0, 0], device=raw.device)
    turned = matrix_to_quaternion(shared.c2w[..., :3, :3])[..., None, None, :]
    local = torch.nn.functional.normalize(rotation + upright, dim=-1)
    quats = quaternion_multiply(turned.expand_as(local), local)

    def flat(x: Float[Tensor, "b v t h w c"]) -> Float[Tensor, "b t g c"]:
        return rearrange(x, "b v t h w c -> b t (v h w) c")

    return Gaussians(
        means=flat(means),
        quats=flat(quats),
        scales=flat(footprint * pixel_scale * scale.clamp(-4, 3).exp()),
        opacities=flat((opacity + opacity_shift).sigmoid()).squeeze(-1),
        colors=flat(rearrange(images, "b v t c h w -> b v t h w c") + color),
    )


def placing_cameras(prediction: Prediction, cameras: Cameras) -> Cameras:
    """The cameras that place the Gaussians of a prediction, as `gaussians_from_maps` takes them.

    Without camera token replacement every timestep has a predicted camera of its own, unless cameras are given.

    Args:
        prediction: The network's.
        cameras: Those of the scene, `b v`: predicted or given ones.
    """
    own = prediction.timestep_cameras
    if own is None or not torch.equal(cameras.c2w, prediction.cameras.c2w):
        return cameras
    predicted = torch.equal(cameras.intrinsics, prediction.cameras.intrinsics)
    intrinsics = own.intrinsics if predicted else cameras.intrinsics[:, :, None].expand_as(own.intrinsics)
    return Cameras(own.c2w, intrinsics)


def smooth_offset(raw: Float[Tensor, "*batch 3"], shift: float) -> Float[Tensor, "*batch 3"]:
    """Splatt3r's offset: direction of `raw`, length exp(|raw| - shift) - exp(-shift).

    Splatt3r's own code has a gradient of exactly zero at 0; with expm1(d) / d it is exp(-shift) there.
    """
    length = (raw.square().sum(-1, keepdim=True) + 1e-12).sqrt().clamp(max=8)
    return raw * (length.expm1() / length) * torch.exp(torch.tensor(-shift))
