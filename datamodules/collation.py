"""Joins scenes to a batch although some have cameras, depth or captions and others have none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.types import Cameras, SceneBatch


def collate(scenes: Sequence[SceneBatch]) -> SceneBatch:
    """Joins batches of one along `b`.

    Things that only some scenes have are filled in: cameras with NaN (so that a use of a camera that does not
    exist shows), depth with 0 (unknown), captions with zeros. Things that no scene has stay None. A caption
    embedding of an unknown encoder, as shards had them before they named it, joins those of a known one.

    Raises:
        ValueError: Grids have different shapes, only some scenes have latents, latents come from several
            autoencoders or have several shapes, or captions were embedded by several text encoders or have several
            numbers of channels; names the keys.
    """
    shapes = {tuple(scene.images.shape[1:]) for scene in scenes}
    if len(shapes) > 1:
        keys = [key for scene in scenes for key in scene.keys]
        raise ValueError(f"samples {keys} cannot share a batch, their grids (v t c h w) are {sorted(shapes)}")
    return SceneBatch(
        images=_join_images(scenes),
        cameras=_join_cameras(scenes),
        frame_times=torch.cat([scene.frame_times for scene in scenes]),
        reference=torch.cat([scene.reference for scene in scenes]),
        source=[name for scene in scenes for name in scene.source],
        keys=[key for scene in scenes for key in scene.keys],
        depths=_join_depths(scenes),
        text=_join_text(scenes),
        text_encoder=next((scene.text_encoder for scene in scenes if scene.text_encoder), None),
        latents=_join_latents(scenes),
        autoencoder=scenes[0].autoencoder,
    )


def _join_images(scenes: Sequence[SceneBatch]) -> Tensor:
    if scenes[0].latents is None:
        return torch.cat([scene.images for scene in scenes])
    return scenes[0].images[:1].expand(sum(len(scene.images) for scene in scenes), -1, -1, -1, -1, -1)


def _join_latents(scenes: Sequence[SceneBatch]) -> Tensor | None:
    known = [scene.latents for scene in scenes if scene.latents is not None]
    kinds = {
        None if scene.latents is None else (str(scene.autoencoder), *scene.latents.shape[1:])
        for scene in scenes
    }
    if len(kinds) > 1:
        keys = [key for scene in scenes for key in scene.keys]
        raise ValueError(
            f"samples {keys} cannot share a batch, their latents (autoencoder, v n z y x) are {list(kinds)}"
        )
    return torch.cat(known) if known else None


def _join_cameras(scenes: Sequence[SceneBatch]) -> Cameras | None:
    if all(scene.cameras is None for scene in scenes):
        return None
    filled = []
    for scene in scenes:
        shape = scene.images.shape[:2]
        unknown = Cameras(torch.full((*shape, 4, 4), torch.nan), torch.full((*shape, 3, 3), torch.nan))
        filled.append(scene.cameras or unknown)
    return Cameras(torch.cat([c.c2w for c in filled]), torch.cat([c.intrinsics for c in filled]))


def _join_depths(scenes: Sequence[SceneBatch]) -> Tensor | None:
    if all(scene.depths is None for scene in scenes):
        return None
    return torch.cat(
        [
            torch.zeros_like(scene.images[:, :, :, 0]) if scene.depths is None else scene.depths
            for scene in scenes
        ]
    )


def _join_text(scenes: Sequence[SceneBatch]) -> Tensor | None:
    known = [scene.text for scene in scenes if scene.text is not None]
    if not known:
        return None
    encoders = {scene.text_encoder for scene in scenes if scene.text is not None and scene.text_encoder}
    channels = {text.shape[2] for text in known}
    if len(encoders) > 1 or len(channels) > 1:
        embedded = [
            f"{key!r} by {scene.text_encoder or 'an unknown one'} ({scene.text.shape[2]} channels)"
            for scene in scenes
            if scene.text is not None
            for key in scene.keys
        ]
        raise ValueError(
            f"samples cannot share a batch, their captions were embedded by several text encoders: "
            f"{', '.join(embedded)}; preparation.captions embeds them anew"
        )
    length, size = max(text.shape[1] for text in known), known[0].shape[2]
    text = torch.zeros(len(scenes), length, size)
    for row, scene in enumerate(scenes):
        if scene.text is not None:
            text[row, : scene.text.shape[1]] = scene.text[0]
    return text
