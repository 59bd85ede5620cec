"""Batches in the normalised scene: the first camera is the identity, the unit of length is that of the inputs."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.geometry.cameras import normalise_scene
from scene4d.types import Cameras, SceneBatch


def depth_is_known(batch: SceneBatch) -> bool:
    """Whether every scene of the batch has depth somewhere in its input views."""
    return batch.depths is not None and bool((batch.depths[:, : batch.inputs] > 0).flatten(1).any(1).all())


@torch.no_grad()
def normalise_batch(
    batch: SceneBatch, predicted: Cameras | None = None
) -> tuple[Float[Tensor, "b v t h w"], Cameras]:
    """Depths (0 where unknown) and cameras of all views in the normalised scene, see `normalise_scene`.

    Args:
        batch: Views with cameras, inputs first.
        predicted: Cameras of the input views in the network's unit of length; scenes without depth need them.

    Raises:
        ValueError: The batch has no cameras, or a scene no unit of length; names the sources.
    """
    sources = sorted(set(batch.source))
    if batch.cameras is None:
        raise ValueError(f"novel views need cameras, sources {sources} lack them")
    with torch.autocast(batch.images.device.type, enabled=False):
        depths = torch.zeros_like(batch.images[:, :, :, 0]) if batch.depths is None else batch.depths
        try:
            depths, cameras, _ = normalise_scene(depths, batch.cameras, batch.inputs, predicted)
        except ValueError as error:
            raise ValueError(f"sources {sources}: {error}") from error
    return depths, cameras


def static_scenes(
    batch: SceneBatch,
) -> tuple[Float[Tensor, "n v 1 c h w"], Float[Tensor, "n v 1 h w"], Cameras]:
    """Input views of a batch as normalised scenes of one timestep each; n runs over scenes and timesteps.

    Returns:
        Images, depths and cameras `n v`.

    Raises:
        ValueError: A scene has no depth or cameras, or a timestep no depth; names their sources.
    """
    inputs, timesteps = batch.inputs, batch.images.shape[2]
    lacking = set(batch.source)
    if batch.depths is not None and batch.cameras is not None:
        known = (batch.depths[:, :inputs] > 0).any(1).flatten(2).any(-1).all(1)
        lacking = {source for source, has in zip(batch.source, known.tolist()) if not has}
    if lacking or batch.depths is None or batch.cameras is None:
        raise ValueError(f"geometry needs depth and cameras, sources {sorted(lacking)} lack them")
    images = rearrange(batch.images[:, :inputs], "b v t c h w -> (b t) v 1 c h w")
    depths = rearrange(batch.depths[:, :inputs], "b v t h w -> (b t) v 1 h w")
    cameras = batch.cameras[:, :inputs].apply(lambda x: x.repeat_interleave(timesteps, 0))
    with torch.autocast(images.device.type, enabled=False):
        depths, cameras, _ = normalise_scene(depths, cameras)
    return images, depths, cameras
