"""Textures of floors and walls: pictures from folders, split into train and val, and procedural noise."""

from __future__ import annotations

import colorsys
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import gaussian_filter

from preparation.synthetic.content_split import content_groups, content_hash, family, select_split
from scene4d.folders import listed_below
from scene4d.pictures import open_picture

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tga"}
LEAST_CONTRAST = 9.0
MEAN_RANGE = (35.0, 215.0)
NOISE_SHARE = 0.3


@dataclass(frozen=True)
class Surface:
    """A large texture that hardly repeats.

    Attributes:
        texture: Square picture.
        label: Mean colour in words, such as `green` or `dark grey`.
        name: `<folder>/<file>`, or `noise`.
    """

    texture: UInt8[ndarray, "size size 3"]
    label: str
    name: str


def texture_files(roots: list[Path], split: str) -> list[Path]:
    """Finds the images of one split; identical ones and variants of one family in a folder stay together.

    Raises:
        ValueError: There is no usable image below `roots`.
    """
    images = {
        f"{root.parent.name}/{root.name}/{path.relative_to(root).as_posix()}": path
        for root in roots
        for path in sorted(listed_below(root, IMAGE_SUFFIXES))
        if not path.stem.startswith("water")
    }
    by_name = {name: path for name, path in images.items() if _is_usable(path)}
    if not by_name:
        raise ValueError(f"no usable image below {[str(root) for root in roots]}")
    traits = {n: {n.rpartition("/")[0] + "/" + family(p.stem), content_hash(p)} for n, p in by_name.items()}
    groups = content_groups(traits)
    chosen = [by_name[name] for name in select_split(groups, split)]
    logger.info("%d of %d textures belong to %s", len(chosen), len(by_name), split)
    return chosen


def random_surface(files: list[Path], rng: np.random.Generator, size: int, tiles: int) -> Surface:
    """Draws a picture repeated with random turns, or noise; light and colour vary so that no place repeats.

    Args:
        files: Pictures to choose from.
        rng: Decides everything.
        size: Side of the result, pixels.
        tiles: Number of times that a picture is repeated along each axis.
    """
    if rng.random() < NOISE_SHARE:
        texture, name = noise_texture(rng, size), "noise"
    else:
        file = files[rng.integers(len(files))]
        texture, name = _tiled(file, rng, size, tiles), f"{file.parent.parent.name}/{file.stem}"
    return Surface(texture, color_name(texture.reshape(-1, 3).mean(0) / 255), name)


def noise_texture(rng: np.random.Generator, size: int) -> UInt8[ndarray, "size size 3"]:
    """Draws noise at four scales that slowly changes in tint and repeats seamlessly."""
    scales = [(size / 14, 0.8), (size / 45, 0.9), (size / 120, 1.1), (size / 280, 1.2)]
    light = np.sum([weight * _smooth_noise(rng, size, scale, 1) for scale, weight in scales], 0)
    tint = _smooth_noise(rng, size, size / 12, 3) @ np.diag(rng.uniform(0.1, 0.8, 3).astype(np.float32))
    mixed = light / light.std() + tint
    return (mixed * rng.uniform(22, 40) + rng.uniform(60, 170, 3)).clip(0, 235).astype(np.uint8)


def color_name(rgb: Float[ndarray, "3"]) -> str:
    """Returns a plain English word for a colour in [0, 1]."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(float(x) for x in rgb))
    if saturation < 0.12:
        return "dark grey" if lightness < 0.3 else "light grey" if lightness > 0.65 else "grey"
    names = (
        (0.045, "red"),
        (0.11, "brown"),
        (0.19, "yellow"),
        (0.45, "green"),
        (0.53, "turquoise"),
        (0.7, "blue"),
    )
    return next((name for limit, name in names if hue < limit), "purple" if hue < 0.93 else "red")


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float, channels: int) -> ndarray:
    """Draws periodic noise of unit deviation; very smooth noise is drawn coarsely and enlarged."""
    step = max(1, int(sigma // 3))
    small = max(4, size // step)
    noise = rng.standard_normal((small, small, channels)).astype(np.float32)
    noise = gaussian_filter(noise, (sigma * small / size, sigma * small / size, 0), mode="wrap")
    bands = [
        Image.fromarray(noise[..., k]).resize((size, size), Image.Resampling.BICUBIC) for k in range(channels)
    ]
    noise = np.stack([np.asarray(band) for band in bands], -1)
    return noise / noise.std()


def _tiled(file: Path, rng: np.random.Generator, size: int, tiles: int) -> UInt8[ndarray, "size size 3"]:
    """Joins turned and mirrored copies, raises contrast to a common level, and varies light and colour smoothly."""
    side = -(-size // tiles)
    with open_picture(file) as opened:
        tile = np.asarray(opened.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    mean = tile.mean((0, 1))
    tile = (tile - mean) * max(1.0, min(2.5, 28 / tile.std((0, 1)).mean())) + mean
    flips = [tile, tile[::-1], tile[:, ::-1], tile[::-1, ::-1]]
    flips += [np.swapaxes(flip, 0, 1) for flip in flips]
    rows = [np.concatenate([flips[rng.integers(8)] for _ in range(tiles)], 1) for _ in range(tiles)]
    whole = np.concatenate(rows)[:size, :size]
    light = (
        1
        + 0.22 * _smooth_noise(rng, size, size / tiles / 2, 1)
        + 0.1 * _smooth_noise(rng, size, size / tiles / 2, 3)
    )
    return (whole * rng.uniform(0.8, 1.2, 3) * light).clip(0, 235).astype(np.uint8)


def _is_usable(path: Path) -> bool:
    """Tells whether a picture is neither plain nor nearly black or white."""
    with open_picture(path) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((64, 64)), np.float32)
    return bool(pixels.std((0, 1)).mean() > LEAST_CONTRAST and MEAN_RANGE[0] < pixels.mean() < MEAN_RANGE[1])
