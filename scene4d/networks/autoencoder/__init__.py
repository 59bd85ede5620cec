"""Video autoencoders: 8 x 8 spatial and causal temporal compression (`scene4d.latent_grid`).

Images are in [0, 1] everywhere else; the shift to [-1, 1] happens in `encode_grid` and `decode_grid` only. All of them
compute in float32, whatever the trainer's precision: latents are data, and pictures are scored.
"""

from scene4d.networks.autoencoder.fingerprint import autoencoder_fingerprint
from scene4d.networks.autoencoder.frozen import frozen_autoencoder
from scene4d.networks.autoencoder.grids import decode_grid, encode_grid
from scene4d.networks.autoencoder.patch_autoencoder import PatchAutoencoder
from scene4d.networks.autoencoder.wan_autoencoder import WanAutoencoder

__all__ = [
    "PatchAutoencoder",
    "WanAutoencoder",
    "autoencoder_fingerprint",
    "decode_grid",
    "encode_grid",
    "frozen_autoencoder",
]
