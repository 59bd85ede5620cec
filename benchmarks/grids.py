"""Grids and Wan networks without data and without weights, on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from scene4d.latent_grid import latent_frames
from scene4d.networks import WanGridTransformer


@dataclass(frozen=True)
class Grid:
    """The grids of a batch on one GPU, in pixels.

    Args:
        views: Number of views.
        frames: Frames per view, 4k + 1.
        height: Height of the frames.
        width: Width of the frames.
        batch: Grids per GPU.
        stride: Pixels along the side of a latent.
    """

    views: int = 8
    frames: int = 29
    height: int = 144
    width: int = 256
    batch: int = 1
    stride: int = 8

    def latents(self, channels: int) -> Tensor:
        """Latents of the grids, without values, on the default device."""
        frames, height, width = (
            latent_frames(self.frames),
            self.height // self.stride,
            self.width // self.stride,
        )
        return torch.empty(self.batch, self.views, frames, channels, height, width)


def inputs(network: WanGridTransformer, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise levels and captions on the meta device."""
    config = network.base.config
    with torch.device("meta"):
        latents = grid.latents(config.in_channels).to(network.base.proj_out.weight.dtype)
        text = latents.new_empty(grid.batch, network.text_length, config.text_dim)
        return latents, torch.empty(grid.batch), text


def build(parser: ArgumentParser, options: Namespace, **changes: object) -> WanGridTransformer:
    """The network of the options on the meta device, with random weights and some settings changed."""
    options = options.clone()
    for name, value in {"pretrained": None, "dtype": "float32", **changes}.items():
        options[f"network.init_args.{name}"] = value
    with torch.device("meta"):
        return parser.instantiate(options).network
