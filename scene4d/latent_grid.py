"""How the frames of a video and its latent frames correspond; no other file knows it.

Video autoencoders compress time causally by 4: 4k + 1 frames become k + 1 latent frames. Latent frame 0 stands for
frame 0 alone and latent frame k for frames 4k - 3 to 4k. A freeze-time reference, one frame per view, is therefore
exactly the first latent column of a grid.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

TEMPORAL_STRIDE = 4


def latent_frames(frames: int) -> int:
    """Returns the number of latent frames of a video of 4k + 1 frames.

    Raises:
        ValueError: `frames` is not 4k + 1; the autoencoder would drop the rest in silence.
    """
    if frames < 1 or (frames - 1) % TEMPORAL_STRIDE:
        raise ValueError(f"a video has {frames} frames, expected 4k + 1 (1, 5, 9, 13, 17, ... 29, 61, 81)")
    return 1 + (frames - 1) // TEMPORAL_STRIDE


def video_frames(latents: int) -> int:
    """Returns the number of frames that the first `latents` latent frames stand for."""
    return 1 + (latents - 1) * TEMPORAL_STRIDE


def whole_frames(frames: int) -> int:
    """Returns the length of the longest video of 4k + 1 frames that fits into `frames` frames, at least 1."""
    return frames - (frames - 1) % TEMPORAL_STRIDE


def latent_reference_mask(reference: Bool[Tensor, "b v t"]) -> Bool[Tensor, "b v n"]:
    """Turns a mask over frames into one over latent frames: a latent frame is given if all its frames are.

    Raises:
        ValueError: The number of frames is not 4k + 1.
    """
    latent_frames(reference.shape[-1])
    first, rest = reference[..., :1], reference[..., 1:]
    if not rest.shape[-1]:
        return first
    return torch.cat([first, rest.unflatten(-1, (-1, TEMPORAL_STRIDE)).all(-1)], -1)
