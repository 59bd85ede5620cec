"""How images of any size come to a size that a reconstruction network accepts, and how its results come back.

The one rule: images whose height and width are multiples of the network's patch stay as they are. Of all others the
longer side becomes the network's reference length and the shorter side follows, both rounded to multiples of the patch.
The largest middle part of that shape is cut out and scaled with antialiasing. At most half a patch is lost along a side
(counted at the network's size), nothing is padded, and pixels stay square up to the rounding of the cut.

Cameras and depths of the result refer to the original images again: intrinsics are exact, and depth is 0, unknown,
where the image was cut away.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scene4d.types import Cameras, Reconstruction, SceneBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """The part of an image that a network sees, and its size there.

    Attributes:
        original: Height and width of the image, pixels.
        top, left: First row and column of the part.
        part: Height and width of the part, pixels of the image.
        size: Height and width of the part as the network sees it.
    """

    original: tuple[int, int]
    top: int
    left: int
    part: tuple[int, int]
    size: tuple[int, int]

    @property
    def changes_nothing(self) -> bool:
        """Whether the network accepts the image as it is."""
        return self.size == self.original

    def images(self, images: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c y x"]:
        """Images in [0, 1] as the network sees them."""
        if self.changes_nothing:
            return images
        cut = images[..., self._rows, self._columns]
        scaled = F.interpolate(
            cut.flatten(0, -4), self.size, mode="bilinear", antialias=True, align_corners=False
        )
        return scaled.clamp(0, 1).unflatten(0, cut.shape[:-3])

    def depths(self, depths: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch y x"]:
        """Depth maps of the images, of each pixel the nearest: no depth lies between two surfaces."""
        return depths if self.changes_nothing else _nearest(depths[..., self._rows, self._columns], self.size)

    def cameras(self, cameras: Cameras) -> Cameras:
        """Cameras of the images as those of what the network sees."""
        return cameras if self.changes_nothing else Cameras(cameras.c2w, self.intrinsics(cameras.intrinsics))

    def intrinsics(self, intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
        """Intrinsics of the images, in pixels, as those of what the network sees."""
        (sy, sx), K = self._scale, intrinsics.clone()
        K[..., 0, 2] -= self.left
        K[..., 1, 2] -= self.top
        K[..., 0, :] *= sx
        K[..., 1, :] *= sy
        return K

    def cameras_back(self, cameras: Cameras) -> Cameras:
        """Undoes `cameras`."""
        (sy, sx), K = self._scale, cameras.intrinsics.clone()
        K[..., 0, :] /= sx
        K[..., 1, :] /= sy
        K[..., 0, 2] += self.left
        K[..., 1, 2] += self.top
        return cameras if self.changes_nothing else Cameras(cameras.c2w, K)

    def maps_back(self, maps: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch h w"]:
        """Maps of the network at the size of the images, of each pixel the nearest; 0 where the image was cut away."""
        if self.changes_nothing:
            return maps
        whole = maps.new_zeros(*maps.shape[:-2], *self.original)
        whole[..., self._rows, self._columns] = _nearest(maps, self.part)
        return whole

    def batch(self, batch: SceneBatch) -> SceneBatch:
        """Images, depths and cameras of a batch as the network sees them."""
        if self.changes_nothing:
            return batch
        depths = None if batch.depths is None else self.depths(batch.depths)
        cameras = None if batch.cameras is None else self.cameras(batch.cameras)
        return replace(batch, images=self.images(batch.images), depths=depths, cameras=cameras)

    def back(self, scene: Reconstruction) -> Reconstruction:
        """A scene made of what the network saw, with the cameras and depths of the original images."""
        if self.changes_nothing:
            return scene
        depths = None if scene.depths is None else self.maps_back(scene.depths)
        return replace(scene, cameras=self.cameras_back(scene.cameras), depths=depths)

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.part[0])

    @property
    def _columns(self) -> slice:
        return slice(self.left, self.left + self.part[1])

    @property
    def _scale(self) -> tuple[float, float]:
        return self.size[0] / self.part[0], self.size[1] / self.part[1]


@cache  # so that it is said once for each size
def fit_to_network(height: int, width: int, patch: int, longest: int) -> Fit:
    """The rule of this file for one size of images.

    Args:
        height: Of the images, pixels.
        width: Of the images, pixels.
        patch: Side of the network's patches; it accepts multiples of it.
        longest: The network's reference length for the longer side, 518 for VGGT-1B.
    """
    if height % patch == 0 and width % patch == 0:
        return whole_images(height, width)
    scale = longest / max(height, width)
    rows, columns = (max(1, round(side * scale / patch)) * patch for side in (height, width))
    part = largest_middle(height, width, (rows, columns))
    fit = Fit((height, width), part[0].start, part[1].start, _lengths(part), (rows, columns))
    log.info(
        "images of %d x %d: the network gets their middle %d x %d at %d x %d; cameras and depths are mapped back",
        height, width, *fit.part, rows, columns,
    )  # fmt: skip
    return fit


def whole_images(height: int, width: int) -> Fit:
    """Images that stay as they are."""
    return Fit((height, width), 0, 0, (height, width), (height, width))


def largest_middle(height: int, width: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the largest middle part of a picture that has the shape of `size`."""
    h, w = size
    rows, columns = min(height, max(1, round(width * h / w))), min(width, max(1, round(height * w / h)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _lengths(part: tuple[slice, slice]) -> tuple[int, int]:
    return part[0].stop - part[0].start, part[1].stop - part[1].start


def _nearest(maps: Float[Tensor, "*batch h w"], size: tuple[int, int]) -> Float[Tensor, "*batch y x"]:
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode="nearest-exact").reshape(*maps.shape[:-2], *size)
