"""Grids of images to grids of latents and back, view by view."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scene4d.latent_grid import latent_frames
from scene4d.networks.contracts import Autoencoder
from scene4d.networks.sizes import refuse_size


def encode_grid(
    autoencoder: Autoencoder, images: Float[Tensor, "b v t c h w"]
) -> Float[Tensor, "b v n z y x"]:
    """Encodes every view of a grid as a video of its own.

    Args:
        autoencoder: The encoder.
        images: Images in [0, 1].

    Returns:
        Latents, normalised to unit scale.

    Raises:
        ValueError: The number of frames is not 4k + 1, or the size is not divisible by the autoencoder's stride.
    """
    b, v, t, _, h, w = images.shape
    latent_frames(t)
    stride = autoencoder.stride
    refuse_size("images", (h, w), (stride, stride), f"the autoencoder's {stride}")
    video = rearrange(images, "b v t c h w -> (b v) c t h w")
    latents = autoencoder.encode(video * 2 - 1)
    return rearrange(latents, "(b v) z n y x -> b v n z y x", b=b, v=v)


def decode_grid(
    autoencoder: Autoencoder, latents: Float[Tensor, "b v n z y x"]
) -> Float[Tensor, "b v t c h w"]:
    """Decodes a grid of latents, view by view, to images in [0, 1]."""
    b, v = latents.shape[:2]
    video = autoencoder.decode(rearrange(latents, "b v n z y x -> (b v) z n y x"))
    return rearrange((video + 1) / 2, "(b v) c t h w -> b v t c h w", b=b, v=v).clamp(0, 1)
