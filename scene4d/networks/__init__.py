"""Networks: the Wan wrapper and autoencoders of the video model, the VGGT-compatible reconstructor."""

from scene4d.networks.autoencoder import PatchAutoencoder, WanAutoencoder
from scene4d.networks.wan import WanGridTransformer

__all__ = ["PatchAutoencoder", "WanAutoencoder", "WanGridTransformer"]
