"""Batches in the normalised scene: the first camera is the identity, the unit of length is that of the inputs."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import normalise_scene
from scene4d.geometry.useful_scenes import known_depths, refuse_useless
from scene4d.types import Cameras, SceneBatch


def depth_is_known(batch: SceneBatch) -> bool:
    """Whether every scene of the batch has depth somewhere in its input views."""
    return batch.depths is not None and bool(
        (known_depths(batch)[:, : batch.inputs] > 0).flatten(1).any(1).all()
    )


@torch.no_grad()
def normalise_batch(
    batch: SceneBatch, predicted: Cameras | None = None
) -> tuple[Float[Tensor, "b v t h w"], Cameras]:
    """Depths (0 where unknown) and cameras of all views in the normalised scene, see `normalise_scene`.

    Args:
        batch: Views with cameras, inputs first.
        predicted: Cameras of the input views in the network's unit of length; scenes without depth need them.

    Raises:
        ValueError: The batch has no cameras, a scene cannot be used (see `why_useless`), or has no unit of length;
            names it.
    """
    sources = sorted(set(batch.source))
    if batch.cameras is None:
        raise ValueError(f"novel views need cameras, sources {sources} lack them")
    refuse_useless(batch)
    with torch.autocast(batch.images.device.type, enabled=False):
        try:
            depths, cameras, _ = normalise_scene(known_depths(batch), batch.cameras, batch.inputs, predicted)
        except ValueError as error:
            raise ValueError(f"sources {sources}, samples {batch.keys}: {error}") from error
    return depths, cameras


def static_scenes(
    batch: SceneBatch,
) -> tuple[Float[Tensor, "n v 1 c h w"], Float[Tensor, "n v 1 h w"], Cameras]:
    """Input views of a batch as normalised scenes of one timestep each; n runs over scenes and timesteps.

    Returns:
        Images, depths and cameras `n v`.

    Raises:
        ValueError: A scene has no depth or cameras, or a timestep no depth; names it.
    """
    inputs, timesteps = batch.inputs, batch.images.shape[2]
    if batch.depths is None or batch.cameras is None:
        raise ValueError(f"geometry needs depth and cameras, sources {sorted(set(batch.source))} lack them")
    refuse_useless(batch, depth=True)
    images = rearrange(batch.images[:, :inputs], "b v t c h w -> (b t) v 1 c h w")
    depths = rearrange(known_depths(batch)[:, :inputs], "b v t h w -> (b t) v 1 h w")
    cameras = batch.cameras[:, :inputs].apply(lambda x: x.repeat_interleave(timesteps, 0))
    with torch.autocast(images.device.type, enabled=False):
        depths, cameras, _ = normalise_scene(depths, cameras)
    return images, depths, cameras
