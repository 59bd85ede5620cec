"""The variants of a clip whose latents are stored: the pictures that training would see, by the code that makes them.

Training on pictures draws other colours, mirror images and homographies each time. Training on latents draws one of the
stored variants instead, each of which is exactly a grid that `datamodules.sources.GridReader` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules import GridAugmentation, GridSelection, HomographyViews, Source
from datamodules.archives import Members
from datamodules.sources import GridReader
from scene4d.latent_grid import latent_frames, whole_frames
from scene4d.sample_format import read_meta
from scene4d.types import SceneBatch

CACHE_MB = 1024  # decoded views of one clip, which all of its variants are made of


class Variant(NamedTuple):
    """Pictures of a variant, and whether the stored cameras and depth are still those of these pictures."""

    images: Float[Tensor, "v t c h w"]
    geometry: bool


@dataclass(frozen=True)
class ClipVariants:
    """Makes the variants of a clip. Random numbers follow from `seed`, the clip's key and the variant.

    Without homographies, variant 0 is the plain clip: evaluation takes it, and its cameras stay true.

    Attributes:
        frames: Number of frames of a still clip, 4k + 1; frames of other clips behind 4k + 1 are left out.
        variants: Number of variants.
        size: Height and width to which pictures are brought; None keeps the stored ones.
        augmentation: Random changes of all variants behind the plain one.
        homography: Turns one view into views of its own in every variant.
        seed: Decides all random numbers.

    Raises:
        ValueError: `frames` is not 4k + 1, or the variants would be equal or never changed.
    """

    frames: int = 29
    variants: int = 1
    size: tuple[int, int] | None = None
    augmentation: GridAugmentation | None = None
    homography: HomographyViews | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        latent_frames(self.frames)
        if self.variants < 1:
            raise ValueError(f"--variants must be at least 1, is {self.variants}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"--size must be positive, is {list(self.size)}")
        changing = self.homography is not None or self.augmentation is not None
        if self.variants > 1 and not changing:
            raise ValueError(
                f"--variants {self.variants} would be equal: give --augmentation or --homography"
            )
        if self.variants == 1 and self.augmentation is not None and self.homography is None:
            raise ValueError(
                "--augmentation needs --variants 2 or more without --homography: variant 0 is the plain clip"
            )

    def size_of(self, members: Members) -> tuple[int, int]:
        """Height and width of the pictures of a sample."""
        meta = read_meta(members)
        return self.size or (meta["height"], meta["width"])

    def read(self, members: Members) -> Iterator[Variant]:
        """Yields the variants of a sample, each as the reader gives it: all views, from frame 0 on.

        Raises:
            ValueError: A member is damaged; names the sample.
        """
        plain, changed = self._reader(members, None), self._reader(members, self.augmentation)
        first: SceneBatch | None = None
        for variant in range(self.variants):
            rng = Random(f"{self.seed}/{members['__key__']!s}/{variant}")
            grid = (changed if variant or self.homography else plain)(members, rng)
            first = first or grid
            yield Variant(grid.images[0], self._keeps_geometry(members, first, grid))

    def _reader(self, members: Members, augmentation: GridAugmentation | None) -> GridReader:
        meta = read_meta(members)
        selection = GridSelection(
            views=self.homography.views if self.homography else meta["views"],
            view_strides=[1],
            frames=self.frames if meta["frames"] == 1 else whole_frames(meta["frames"]),
            random=False,
        )
        source = Source(meta["source"], [], selection, homography=self.homography, augmentation=augmentation)
        return GridReader(source, self.size_of(members), True, CACHE_MB if self.variants > 1 else 0)

    def _keeps_geometry(self, members: Members, first: SceneBatch, grid: SceneBatch) -> bool:
        meta = read_meta(members)
        if self.homography or self.size_of(members) != (meta["height"], meta["width"]):
            return False
        if (
            first.depths is not None
            and grid.depths is not None
            and not torch.equal(first.depths, grid.depths)
        ):
            return False
        if first.cameras is None or grid.cameras is None:
            return True
        return torch.equal(first.cameras.c2w, grid.cameras.c2w) and torch.equal(
            first.cameras.intrinsics, grid.cameras.intrinsics
        )
