"""Augmentations of a whole view x time grid, and the resize that carries intrinsics and depth along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from scene4d.types import Cameras, SceneBatch


@dataclass(frozen=True)
class GridAugmentation:
    """Draws random changes once per scene and applies them to all its views and frames alike.

    Args:
        flip: Probability of a mirror image; cameras and depth are mirrored with it.
        permute_channels: Probability of a random order of the colour channels.
        gamma: Largest change of the exponent in colour ** exponent, as a factor minus 1.
        gain: Largest change of the gain of each channel.
        keep_white: Whether the gain scales the distance to white, so that a white background stays white; otherwise
            it scales the distance to black.
    """

    flip: float = 0.5
    permute_channels: float = 0.0
    gamma: float = 0.0
    gain: float = 0.0
    keep_white: bool = True

    def __post_init__(self) -> None:
        for name in ("flip", "permute_channels", "gamma", "gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def apply(self, batch: SceneBatch, rng: Random) -> SceneBatch:
        """Augments a batch, every scene of it in the same way. Images may be bytes; changed colours are floats."""
        mirrored = rng.random() < self.flip
        order = [0, 1, 2]
        if rng.random() < self.permute_channels:
            rng.shuffle(order)
        gamma = (1 + self.gamma) ** rng.uniform(-1, 1)
        gains = torch.tensor([(1 + self.gain) ** rng.uniform(-1, 1) for _ in order])
        if order == [0, 1, 2] and gamma == 1 and bool((gains == 1).all()):
            return flip(batch) if mirrored else batch
        if batch.images.dtype == torch.uint8:
            levels = (torch.arange(256) / 255).expand(1, 1, 1, 3, 1, 256)
            table = change_colors(levels, gamma, gains, self.keep_white)[0, 0, 0, :, 0]
            images = map_levels(batch.images, table, order, mirrored)
        else:
            images = batch.images.flip(-1) if mirrored else batch.images
            images = images if order == [0, 1, 2] else images[:, :, :, order]
            images = change_colors(images, gamma, gains, self.keep_white)
        return replace(flip_geometry(batch) if mirrored else batch, images=images)


def flip(batch: SceneBatch) -> SceneBatch:
    """Mirrors a scene left to right: images, depth, and cameras."""
    return replace(flip_geometry(batch), images=batch.images.flip(-1))


def flip_geometry(batch: SceneBatch) -> SceneBatch:
    """Mirrors depth and cameras, not the images.

    With M = diag(-1, 1, 1, 1) applied to the world and to every camera, c2w becomes M c2w M (still a
    rotation), and a pixel x goes to w - x, so the principal point goes to w - cx.
    """
    cameras = batch.cameras
    if cameras is not None:
        mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=cameras.c2w.dtype))
        intrinsics = cameras.intrinsics.clone()
        intrinsics[..., 0, 2] = batch.images.shape[-1] - intrinsics[..., 0, 2]
        cameras = Cameras(mirror @ cameras.c2w @ mirror, intrinsics)
    depths = None if batch.depths is None else batch.depths.flip(-1)
    return replace(batch, cameras=cameras, depths=depths)


def change_colors(
    images: Float[Tensor, "b v t c h w"], gamma: float, gains: Float[Tensor, "c"], keep_white: bool
) -> Float[Tensor, "b v t c h w"]:
    """Applies gamma, then one gain per channel, towards white or black; clamps to [0, 1]."""
    images = images**gamma
    gains = gains[:, None, None]
    images = 1 - (1 - images) * gains if keep_white else images * gains
    return images.clamp(0, 1)


def map_levels(
    images: UInt8[Tensor, "b v t c h w"],
    table: Float[Tensor, "c 256"],
    order: Sequence[int] = (0, 1, 2),
    mirrored: bool = False,
) -> Float[Tensor, "b v t c h w"]:
    """Replaces level k of channel c by `table[c, k]`: a byte has 256 powers, an image has many more pixels.

    It goes plane by plane, so that the bytes widened to indices fit in the cache.

    Args:
        images: Images as bytes; they are not copied.
        table: New levels of every channel.
        order: Channel c of the result is made of channel `order[c]`.
        mirrored: Whether the result is mirrored left to right.
    """
    mapped = torch.empty(images.shape)
    target, levels = mapped.numpy(), table.numpy()
    stored = images.numpy()[..., ::-1] if mirrored else images.numpy()
    indices = np.empty(images.shape[4:], np.intp)
    for place in np.ndindex(images.shape[:3]):
        for channel, source in enumerate(order):
            indices[...] = stored[place][source]
            levels[channel].take(indices, out=target[place][channel], mode="clip")
    return mapped


def unit_floats(images: UInt8[Tensor, "*axes"] | Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Turns bytes into contiguous floats in [0, 1]; floats are left as they are."""
    if images.dtype != torch.uint8:
        return images
    return torch.empty(images.shape).copy_(images).div_(255)


def fit(batch: SceneBatch, size: tuple[int, int]) -> SceneBatch:
    """Crops the centre to the aspect ratio of `size` and resizes to it; intrinsics and depth follow.

    Images are averaged (antialiased bilinear), depth takes the nearest pixel: averaging across an edge
    would invent surfaces.

    Args:
        batch: Scenes of any size. Images may be bytes; resized ones are floats.
        size: Wanted height and width.
    """
    height, width = batch.images.shape[-2:]
    if (height, width) == size:
        return batch
    ratio = min(height / size[0], width / size[1])
    crop_h, crop_w = round(size[0] * ratio), round(size[1] * ratio)
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    rows, columns = slice(top, top + crop_h), slice(left, left + crop_w)
    b, v = batch.images.shape[:2]
    flat = rearrange(batch.images[..., rows, columns], "b v t c h w -> (b v t) c h w")
    flat = flat.float() / 255 if flat.dtype == torch.uint8 else flat
    flat = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    images = rearrange(flat, "(b v t) c h w -> b v t c h w", b=b, v=v)
    depths = batch.depths
    if depths is not None:
        depths = F.interpolate(depths[..., rows, columns].flatten(0, 1), size, mode="nearest-exact")
        depths = rearrange(depths, "(b v) t h w -> b v t h w", b=b)
    cameras = batch.cameras
    if cameras is not None:
        scale_x, scale_y = size[1] / crop_w, size[0] / crop_h
        change = torch.tensor(
            [[scale_x, 0, -left * scale_x], [0, scale_y, -top * scale_y], [0, 0, 1]],
            dtype=cameras.intrinsics.dtype,
        )
        cameras = Cameras(cameras.c2w, change @ cameras.intrinsics)
    return replace(batch, images=images, depths=depths, cameras=cameras)
