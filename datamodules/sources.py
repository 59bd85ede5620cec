"""One data source as configured, and how its raw samples become grids."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.archives import Members, is_remote
from datamodules.augmentation import GridAugmentation, fit, unit_floats
from datamodules.homography import HomographyViews
from datamodules.latents import draw_variant, latents_of, refuse_inexact
from datamodules.references import ReferencePolicy
from datamodules.selection import ContextSelection, Extent, GridSelection, Selected
from scene4d.sample_format import SceneSample, decode_sample, latents_entry, read_meta
from scene4d.types import Cameras, SceneBatch


@dataclass
class SourceDefaults:
    """Settings for all sources of a list. A source's own setting always wins.

    Args:
        root: Folder or address that is put in front of all relative urls of the list. Absolute paths, addresses with
            a scheme and `pipe:` commands stay as they are.
        selection: Chooses the views and frames of a sample.
        references: Chooses the frames that are given in a diffusion grid.
        augmentation: Random changes of the images, for training; null changes nothing.
    """

    root: str = ""
    selection: GridSelection | ContextSelection | None = None
    references: ReferencePolicy = field(default_factory=ReferencePolicy)
    augmentation: GridAugmentation | None = None


@dataclass
class Source:
    """One data source. Settings that it leaves out are those of its list's `SourceDefaults`.

    Args:
        name: Name of the source; it is what `SceneBatch.source` says.
        urls: Shards: paths, globs, brace patterns, `pipe:` commands, `http(s)://` or other addresses
            that fsspec knows.
        selection: Chooses the views and frames of a sample; null takes the default of the list.
        weight: Share in the training mixture, relative to the other sources.
        references: Chooses the frames that are given in a diffusion grid; null takes the default of the list.
            `ContextSelection` marks its inputs itself and ignores this.
        homography: Makes the views of 2D videos. The selection then chooses among `homography.views` views of one
            stored view.
        augmentation: Random changes of the images, for training; null changes nothing, whatever the default is.
        size: Height and width of this source's images, or one number for square ones; null takes the size of the
            data module. A source that is listed twice, under two names, gives grids of two sizes.
        latents: Whether to read the latents that `preparation.latents` has stored, instead of decoding pictures.
            This is for training and its validation, and `SceneBatch.images` are then NaN. Homographies and
            augmentation are those of the stored variants, of which one is drawn; leave `homography` out then.

    Raises:
        ValueError: Stored latents would not be those of the grids that the options make; names the option.
    """

    name: str
    urls: list[str]
    selection: GridSelection | ContextSelection | None = None
    weight: float = 1.0
    references: ReferencePolicy | None = None
    homography: HomographyViews | None = None
    augmentation: GridAugmentation | Literal["default"] | None = "default"
    size: int | tuple[int, int] | None = None
    latents: bool = False

    def __post_init__(self) -> None:
        if self.latents and self.selection is not None:
            augmentation = None if self.augmentation == "default" else self.augmentation
            refuse_inexact(self.name, self.selection, self.homography, augmentation)

    def filled(self, defaults: SourceDefaults) -> Source:
        """The source with the defaults in the places that it leaves open.

        Raises:
            ValueError: Neither says which views and frames to take, or stored latents are not exact with the
                defaults; names the source.
        """
        if self.selection is None and defaults.selection is None:
            raise ValueError(
                f"source {self.name!r} has no selection: give it one, or all sources of its list one in "
                "train_defaults or val_defaults"
            )
        return replace(
            self,
            urls=[below(defaults.root, url) for url in self.urls],
            selection=self.selection or defaults.selection,
            references=self.references or defaults.references,
            augmentation=defaults.augmentation if self.augmentation == "default" else self.augmentation,
        )


def below(root: str, url: str) -> str:
    """A relative path below the root; other addresses as they are."""
    return url if not root or url.startswith("/") or is_remote(url) else f"{root.rstrip('/')}/{url}"


class DecodedViews:
    """Decoded views of the scenes used last, in memory up to a limit; decoding takes longer than the rest.

    Args:
        megabytes: Limit; 0 keeps nothing.
    """

    def __init__(self, megabytes: float) -> None:
        self.limit, self.size = int(megabytes * 2**20), 0
        self._views: OrderedDict[tuple[str, str, int, bool], SceneSample] = OrderedDict()

    def decode(self, members: Members, views: Sequence[int], depth: bool) -> SceneSample:
        """Like `decode_sample`, decoding only the views that are not in memory.

        Raises:
            ValueError: As `decode_sample`.
        """
        if self.limit == 0:
            return decode_sample(members, views, depth)
        parts = [self._view(members, view, depth) for view in views]
        join = lambda arrays: None if arrays[0] is None else np.concatenate(arrays)  # noqa: E731
        return replace(
            parts[0],
            images=np.concatenate([part.images for part in parts]),
            c2w=join([part.c2w for part in parts]),
            intrinsics=join([part.intrinsics for part in parts]),
            depths=join([part.depths for part in parts]),
            views=list(views),
        )

    def _view(self, members: Members, view: int, depth: bool) -> SceneSample:
        key = (str(members.get("__url__", "")), str(members["__key__"]), view, depth)
        if key in self._views:
            self._views.move_to_end(key)
            return self._views[key]
        sample = decode_sample(members, [view], depth)
        self._views[key] = sample
        self.size += _bytes(sample)
        while self.size > self.limit:
            self.size -= _bytes(self._views.popitem(last=False)[1])
        return sample


class GridReader:
    """Turns raw members of a source's samples into grids (batches of one).

    Args:
        source: The source.
        size: Height and width of the images.
        depth: Whether to read depth.
        cache_mb: Memory for decoded views, megabytes.
    """

    def __init__(self, source: Source, size: tuple[int, int], depth: bool, cache_mb: float) -> None:
        self.source = source.filled(SourceDefaults())
        self.size, self.depth = size, depth
        self.decoded = DecodedViews(cache_mb)

    def __call__(self, members: Members, rng: Random) -> SceneBatch:
        """Selects, decodes, resizes and augments one sample.

        Raises:
            ValueError: The sample is damaged or too small for the selection, or its latents are of another size;
                names its key.
        """
        meta, key, source = read_meta(members), str(members["__key__"]), self.source
        views = source.homography.views if source.homography else meta["views"]
        entry = latents_entry(meta, key) if source.latents else None
        extent = Extent(key, entry.views if entry else views, meta["frames"], meta["depth_frames"])
        assert source.selection is not None  # filled
        selected = source.selection.select(extent, rng)
        if entry:
            return self._stored_latents(members, entry.variants, selected, rng)
        if source.homography is not None:
            grid = self._warped(members, meta["views"], source.homography, selected, rng)
        else:
            sample = self.decoded.decode(members, selected.views, self.depth)
            grid = fit(self._grid(sample, selected, rng), self.size)
        if isinstance(source.augmentation, GridAugmentation):
            grid = source.augmentation.apply(grid, rng)
        return _repeated(replace(grid, images=unit_floats(grid.images)), len(selected.frames))

    def _stored_latents(self, members: Members, variants: int, selected: Selected, rng: Random) -> SceneBatch:
        """A grid of latents; nothing is kept in memory, since reading them costs little."""
        assert isinstance(self.source.selection, GridSelection)  # refuse_inexact
        variant = draw_variant(variants, self.source.selection, rng)
        sample = decode_sample(members, selected.views, self.depth, latents=True, variant=variant)
        if sample.images.shape[2:4] != self.size:
            raise ValueError(
                f"sample {sample.key!r} has latents of {sample.images.shape[2:4]}, source {self.source.name!r} "
                f"asks for {self.size}: latents cannot be resized, preparation.latents --size makes others"
            )
        latents = latents_of(sample, len(selected.frames))
        return replace(
            self._grid(sample, selected, rng), latents=latents[None], autoencoder=sample.autoencoder
        )

    def _warped(
        self, members: Members, stored: int, homography: HomographyViews, selected: Selected, rng: Random
    ) -> SceneBatch:
        sample = self.decoded.decode(members, [rng.randrange(stored)], depth=False)
        video = unit_floats(_images(sample, selected.frames)[0])
        path = homography.path(rng, self.size, (video.shape[2], video.shape[3]))
        grid = self._grid(replace(sample, c2w=None, intrinsics=None), selected, rng)
        return replace(grid, images=homography.warp(video, path[selected.views], self.size)[None])

    def _grid(self, sample: SceneSample, selected: Selected, rng: Random) -> SceneBatch:
        views, frames = len(selected.views), len(selected.frames)
        mask = selected.reference
        if mask is None:
            assert self.source.references is not None  # filled
            mask = self.source.references.draw(views, frames, rng)
        cameras = None
        if sample.c2w is not None and sample.intrinsics is not None:
            cameras = Cameras(torch.from_numpy(sample.c2w)[None], torch.from_numpy(sample.intrinsics)[None])
        depths = _depths(sample, selected.frames)
        times = torch.arange(frames) * (selected.frame_stride / sample.fps)
        return SceneBatch(
            images=_images(sample, selected.frames)[None],
            cameras=cameras,
            frame_times=times[None].float(),
            reference=torch.from_numpy(mask)[None],
            source=[self.source.name],
            keys=[sample.key],
            depths=None if depths is None else depths[None],
            text=None if sample.text is None else torch.from_numpy(sample.text)[None],
            text_encoder=sample.text_encoder or None,
        )


def _images(
    sample: SceneSample, frames: Sequence[int]
) -> UInt8[Tensor, "v t c h w"] | Float[Tensor, "v t c h w"]:
    """Bytes until the last step: they move four times as fast. A still scene has one frame (`_repeated`).

    Beside latents, one NaN stands for all pixels.
    """
    if sample.latents is not None:
        v, _, h, w, c = sample.images.shape
        return torch.full((1, 1, 1, 1, 1), torch.nan).expand(v, len(frames), c, h, w)
    chosen = [0] if sample.images.shape[1] == 1 else list(frames)
    return rearrange(torch.from_numpy(sample.images[:, _slice(chosen)]), "v t h w c -> v t c h w")


def _slice(frames: list[int]) -> slice | list[int]:
    """The same frames as a slice, which copies nothing, where they have one positive step."""
    step = frames[1] - frames[0] if len(frames) > 1 else 1
    if step > 0 and frames == list(range(frames[0], frames[-1] + 1, step)):
        return slice(frames[0], frames[-1] + 1, step)
    return frames


def _repeated(grid: SceneBatch, frames: int) -> SceneBatch:
    """A still scene at all times, without a copy."""
    b, v, t, c, h, w = grid.images.shape
    return grid if t == frames else replace(grid, images=grid.images.expand(b, v, frames, c, h, w))


def _depths(sample: SceneSample, frames: Sequence[int]) -> Float[Tensor, "v t h w"] | None:
    """Depth at the frames that have it, 0 at the others."""
    if sample.depths is None:
        return None
    v, _, h, w = sample.depths.shape
    depths = torch.zeros(v, len(frames), h, w)
    for place, frame in enumerate(frames):
        if frame in sample.depth_frames:
            depths[:, place] = torch.from_numpy(sample.depths[:, sample.depth_frames.index(frame)])
    return depths


def _bytes(sample: SceneSample) -> int:
    return sample.images.nbytes + (0 if sample.depths is None else sample.depths.nbytes)
