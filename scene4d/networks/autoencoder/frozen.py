"""The autoencoder beside a diffusion network: it never trains."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from scene4d.networks.contracts import Autoencoder


def frozen_autoencoder(make: Callable[[], nn.Module], channels: int) -> Autoencoder:
    """Builds an autoencoder in evaluation mode whose weights take no gradient.

    Args:
        make: Builds it.
        channels: Channels of the latents that the diffusion network takes.

    Raises:
        ValueError: It lacks members of `Autoencoder`, or its latents have another number of channels.
    """
    autoencoder = make()
    if not isinstance(autoencoder, Autoencoder):
        raise ValueError(
            f"autoencoder: {type(autoencoder).__name__} lacks members of scene4d.networks.contracts.Autoencoder"
        )
    if autoencoder.channels != channels:
        raise ValueError(
            f"the network takes latents of {channels} channels, the autoencoder gives {autoencoder.channels}: use "
            "the autoencoder of the network's own checkpoint"
        )
    return autoencoder.eval().requires_grad_(False)
