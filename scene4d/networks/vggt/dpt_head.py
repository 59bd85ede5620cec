"""The DPT head (Ranftl et al. 2021) with VGGT's names: tokens of four layers to dense maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.vggt.aggregator import AggregatedTokens
from scene4d.networks.vggt.layers import joined

PIXELS = 2**18  # of the frames that are decoded at once: one of 518 x 518, five of 224 x 224


class ResidualUnit(nn.Module):
    """Two convolutions around a skip that carries relu(x), not x.

    The textbook form adds x. The released weights were trained with an in-place ReLU, which changes the
    skip as well; the textbook form loads strictly and gives wrong depth.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class FusionBlock(nn.Module):
    """Adds a finer map to a coarser one and resizes the sum."""

    def __init__(self, features: int, has_finer: bool) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(features) if has_finer else None
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(
        self, coarse: Float[Tensor, "n c h w"], finer: Float[Tensor, "n c h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "n c h2 w2"]:
        assert (finer is None) == (self.resConfUnit1 is None)
        x = coarse if finer is None or self.resConfUnit1 is None else coarse + self.resConfUnit1(finer)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The decoder's convolutions; a module of its own only for its name in the state dict."""

    def __init__(self, channels: Sequence[int], features: int, hidden: int, out: int, skip: int) -> None:
        super().__init__()
        reduce = [nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels]
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = reduce
        self.refinenet1 = FusionBlock(features, has_finer=True)
        self.refinenet2 = FusionBlock(features, has_finer=True)
        self.refinenet3 = FusionBlock(features, has_finer=True)
        self.refinenet4 = FusionBlock(features, has_finer=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2 + skip, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, out, 1)
        )


class DPTHead(nn.Module):
    """Dense prediction from four layers of the aggregator.

    Args:
        dim: Channels of the kept layers (twice the aggregator's).
        out: Output channels.
        layers: The four layers to read, coarse detail last.
        channels: Channels after the projection of each layer.
        features: Channels of the decoder.
        hidden: Channels before the output.
        patch_size: Side of a patch, pixels.
        image_skip: Channels of a direct path from the image into the last convolution; 0 as in VGGT.
        position_weight: Weight of the sin-cos position embedding.
        chunk: Frames that `decode` gives it at once, fewer if they are large; 0 means all.
        output_scale: Standard deviation of the initial output weights; 0 keeps PyTorch's.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        layers: Sequence[int],
        channels: Sequence[int],
        features: int,
        hidden: int,
        patch_size: int,
        image_skip: int = 0,
        position_weight: float = 0.1,
        chunk: int = 8,
        output_scale: float = 0.0,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or len(channels) != 4:
            raise ValueError(f"a DPT head reads 4 layers, got layers {layers} and channels {channels}")
        self.layers, self.patch_size, self.chunk = tuple(layers), patch_size, chunk
        self.position_weight = position_weight
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
        ])  # fmt: skip
        self.scratch = Scratch(channels, features, hidden, out, image_skip)
        self.image_skip = nn.Conv2d(3, image_skip, 3, padding=1) if image_skip else None
        if output_scale:
            last = self.scratch.output_conv2[2]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.normal_(last.weight, std=output_scale)
            nn.init.zeros_(last.bias)

    def forward(
        self, levels: list[Float[Tensor, "n l e"]], images: Float[Tensor, "n 3 h w"], shape: tuple[int, int]
    ) -> Float[Tensor, "n c h w"]:
        """Decodes frames, each by itself.

        Args:
            levels: Tokens of the four layers.
            images: The frames, in [0, 1].
            shape: Patches along y and x.
        """
        height, width = images.shape[-2:]
        aspect = width / height
        maps = []
        for level, project, resizer in zip(levels, self.projects, self.resize_layers):
            x = rearrange(self.norm(level), "n (r c) e -> n e r c", r=shape[0])
            maps.append(resizer(self._add_position(project(x), aspect)))
        x = resize(self._fuse(maps), (shape[0] * self.patch_size, shape[1] * self.patch_size))
        x = self._add_position(x, aspect)
        if self.image_skip is not None:
            x = torch.cat([x, self.image_skip(images * 2 - 1)], 1)
        return self.scratch.output_conv2(x)

    def _fuse(self, maps: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n c h w"]:
        s = self.scratch
        one, two, three, four = (
            s.layer1_rn(maps[0]),
            s.layer2_rn(maps[1]),
            s.layer3_rn(maps[2]),
            s.layer4_rn(maps[3]),
        )
        x = s.refinenet4(four, None, three.shape[-2:])
        x = s.refinenet3(x, three, two.shape[-2:])
        x = s.refinenet2(x, two, one.shape[-2:])
        x = s.refinenet1(x, one, (2 * one.shape[-2], 2 * one.shape[-1]))
        return s.output_conv1(x)

    def _add_position(self, x: Float[Tensor, "n c h w"], aspect: float) -> Float[Tensor, "n c h w"]:
        table = position_embedding(x.shape[1], x.shape[2], x.shape[3], aspect, x.device)
        return x + self.position_weight * table


def decode(
    head: DPTHead, tokens: AggregatedTokens, images: Float[Tensor, "b v t 3 h w"]
) -> Float[Tensor, "b v t c h w"]:
    """Decodes all frames of a grid, some at a time, in float32 whatever the trainer's precision."""
    b, v, t, _, h, w = images.shape
    # in the order of the tokens, of which only a chunk is copied and becomes float32
    frames = rearrange(images, "b v t c h w -> b t v c h w")
    count, shape = b * v * t, (tokens.rows, tokens.columns)
    step = min(head.chunk, max(PIXELS // (h * w), 1)) if head.chunk else count
    layers = [tokens.layers[layer].flatten(0, 2) for layer in head.layers]
    with torch.autocast(images.device.type, enabled=False):
        decoded = (
            head([x[k : k + step].float() for x in layers], _some(frames, k, min(k + step, count)), shape)
            for k in range(0, count, step)
        )
        return rearrange(joined(decoded, count), "(b t v) c h w -> b v t c h w", b=b, t=t)


def _some(frames: Float[Tensor, "b t v c h w"], begin: int, end: int) -> Float[Tensor, "n c h w"]:
    """Frames by their numbers; nothing else is copied."""
    t, v = frames.shape[1:3]
    chosen = [frames[k // (t * v), k // v % t, k % v] for k in range(begin, end)]
    return torch.stack(chosen).float()


def resize(x: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear with aligned corners, as the released weights expect."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def position_embedding(
    channels: int, height: int, width: int, aspect: float, device: torch.device, base: float = 100.0
) -> Float[Tensor, "{channels} {height} {width}"]:
    """Sines and cosines of the pixel's place in the image, whose half diagonal has length 1.

    The x half of the channels comes first; within a half, sines before cosines.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    axes = []
    for span, size in ((aspect / diagonal, width), (1 / diagonal, height)):
        limit = span * (size - 1) / size
        axes.append(torch.linspace(-limit, limit, size, dtype=torch.float32, device=device))
    quarter = channels // 4
    frequencies = base ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    x, y = (axis.double()[:, None] * frequencies for axis in axes)
    along_x = torch.cat([x.sin(), x.cos()], -1).float().T[:, None, :].expand(-1, height, -1)
    along_y = torch.cat([y.sin(), y.cos()], -1).float().T[:, :, None].expand(-1, -1, width)
    return torch.cat([along_x, along_y])
