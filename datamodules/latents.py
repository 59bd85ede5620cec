"""Takes stored latents of exactly the frames that are asked for, and refuses options that need pixels."""

from __future__ import annotations

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

    Raises:
        ValueError: An option needs pixels; names the source and the option.
    """
    if isinstance(selection, ContextSelection):
        raise ValueError(f"source {name!r}: latents need a GridSelection, selection is a ContextSelection")
    changes = {
        "selection.first_frame": None if selection.first_frame or not selection.random else False,
        "selection.frame_strides": None if selection.frame_strides == (1,) else selection.frame_strides,
        "selection.reverse_time": selection.reverse_time or None,
        "homography": None if homography is None else "given",
    }
    if augmentation is not None:
        options = ("flip", "permute_channels", "gamma", "gain")
        changes |= {f"augmentation.{option}": getattr(augmentation, option) or None for option in options}
    for option, value in changes.items():
        if value is not None:
            raise ValueError(f"source {name!r}: stored latents are not exact with {option} {value}")


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
