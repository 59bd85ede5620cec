"""Telling autoencoders apart, so that stored latents are never read with another autoencoder than their own."""

from __future__ import annotations

import hashlib

import torch

from scene4d.networks.contracts import Autoencoder


def autoencoder_fingerprint(autoencoder: Autoencoder) -> str:
    """Returns 16 hexadecimal digits that depend on the class and on names, shapes and values of all tensors.

    Buffers that no checkpoint holds count (mean and deviation of the latents). Values are rounded to bfloat16, so
    that the same weights are the same autoencoder whatever precision a trainer keeps them in.
    """
    digest = hashlib.sha256(type(autoencoder).__name__.encode())
    for name, tensor in sorted([*autoencoder.named_parameters(), *autoencoder.named_buffers()]):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
