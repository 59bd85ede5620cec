"""Takes stored latents of exactly the frames that are asked for, and refuses options that need pixels.

Changes of pixels are stored instead, as variants of a clip: one of them is drawn when the clip is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from datamodules.augmentation import GridAugmentation
from datamodules.homography import HomographyViews
from datamodules.selection import ContextSelection, GridSelection
from scene4d.latent_grid import latent_frames, video_frames
from scene4d.sample_format import SceneSample


def refuse_inexact(
    name: str,
    selection: GridSelection | ContextSelection,
    homography: HomographyViews | None,
    augmentation: GridAugmentation | None,
) -> None:
    """Checks that a source's grids are a choice and order of stored views from frame 0 on, and nothing else.

    The codec is causal and encodes each view alone, so these are exactly the grids whose latents are stored.
    Homographies and augmentation belong into the variants that `preparation.latents` stores.

    Raises:
        ValueError: An option needs pixels; names the source, the option, and the option of the command that stores
            the same.
    """
    if isinstance(selection, ContextSelection):
        raise ValueError(f"source {name!r}: latents need a GridSelection, selection is a ContextSelection")
    moved = {
        "selection.first_frame": None if selection.first_frame or not selection.random else False,
        "selection.frame_strides": None if selection.frame_strides == (1,) else selection.frame_strides,
        "selection.reverse_time": selection.reverse_time or None,
    }
    _refuse(name, moved, "")
    advice = "leave it out and store such {} with preparation.latents --variants and --{}"
    _refuse(name, {"homography": homography and "given"}, advice.format("views", "homography"))
    if augmentation is not None:
        options = ("flip", "permute_channels", "gamma", "gain")
        changes = {f"augmentation.{option}": getattr(augmentation, option) or None for option in options}
        _refuse(name, changes, advice.format("changes", "augmentation"))


def _refuse(name: str, changes: Mapping[str, object], advice: str) -> None:
    for option, value in changes.items():
        if value is not None:
            more = f"; {advice}" if advice else ""
            raise ValueError(f"source {name!r}: stored latents are not exact with {option} {value}{more}")


def draw_variant(variants: int, selection: GridSelection, rng: Random) -> int:
    """Draws one of the stored variants, all with equal probability.

    Nothing is drawn where there is one variant, so that the numbers of a run do not depend on this, nor where the
    selection is not random: evaluation takes variant 0, which is the plain clip unless its views are homographies.
    """
    return rng.randrange(variants) if variants > 1 and selection.random else 0


def latents_of(sample: SceneSample, frames: int) -> Float[Tensor, "v n z y x"]:
    """Returns the latents of the first frames of a sample.

    Raises:
        ValueError: Fewer are stored (names the sample), or `frames` is not 4k + 1.
    """
    assert sample.latents is not None
    count, stored = latent_frames(frames), sample.latents.shape[2]
    if count > stored:
        raise ValueError(
            f"sample {sample.key!r} has latents of {video_frames(stored)} frames, {frames} are asked for; "
            "stills have as many as preparation.latents --frames said"
        )
    return rearrange(torch.from_numpy(sample.latents[:, :, :count]), "v z n y x -> v n z y x")
