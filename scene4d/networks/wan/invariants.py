"""Checks a base model at start-up: what must hold of every checkpoint, on a tiny input of its own sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from scene4d.networks.wan.base import WanBase

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # shares of the output's standard deviation
VIEWS, FRAMES, PATCHES = 2, 2, 2


class TinyInput(NamedTuple):
    """A small grid for the network; its first view is a video for the base."""

    latents: Float[Tensor, "1 v n z y x"]
    sigmas: Float[Tensor, "1"]
    text: Float[Tensor, "1 l d"]


def tiny_input(base: WanBase, text_length: int) -> TinyInput:
    """Random numbers in the shapes that a base needs."""
    generator = torch.Generator().manual_seed(0)
    frames, height, width = (
        count * p for count, p in zip((FRAMES, PATCHES, PATCHES), base.config.patch_size)
    )
    shape = (1, VIEWS, frames, base.config.in_channels, height, width)
    text = torch.randn(1, text_length, base.config.text_dim, generator=generator)
    return TinyInput(torch.randn(shape, generator=generator), torch.tensor([0.5]), text)


@torch.no_grad()
def base_output(base: WanBase, given: TinyInput) -> Float[Tensor, "1 1 n z y x"]:
    """Returns what the base makes of a video, before any of its layers is replaced."""
    video = rearrange(given.latents[:, :1], "b 1 n z y x -> b z n y x")
    with torch.autocast(video.device.type, torch.bfloat16, enabled=base.dtype == torch.bfloat16):
        predicted = base(video, given.sigmas * 1000, given.text, return_dict=False)[0]
    return rearrange(predicted, "b z n y x -> b 1 n z y x")


@torch.no_grad()
def check_invariants(
    network: Callable[..., Float[Tensor, "1 v n z y x"]],
    given: TinyInput,
    expected: Float[Tensor, "1 1 n z y x"],
    dtype: torch.dtype,
) -> None:
    """Checks that a network makes of a video what its base makes of it, and that an empty mask gives no references.

    Args:
        network: The network of grids on the base.
        given: From `tiny_input`.
        expected: What the base made of it.
        dtype: Type of the weights, which decides how closely outputs must agree.

    Raises:
        ValueError: Something does not hold; this release of diffusers may compute it in another way.
    """
    latents, sigmas, text = given
    _compare(
        network(latents[:, :1], sigmas, text), expected, dtype, "one view is not what it makes of a video"
    )
    mask: Bool[Tensor, "1 v n"] = torch.zeros(latents.shape[:3], dtype=torch.bool)
    empty = network(latents, sigmas, text, latents.flip(-1), mask)
    _compare(
        empty, network(latents, sigmas, text), dtype, "references change the output although none is given"
    )


def _compare(ours: Tensor, expected: Tensor, dtype: torch.dtype, message: str) -> None:
    allowed = TOLERANCES[dtype] * float(expected.float().std())
    difference = float((ours.float() - expected.float()).abs().max())
    if not difference <= allowed:  # NaN is no agreement
        raise ValueError(
            f"the base model fails a check of the start: {message} (largest difference {difference:.2e}, "
            f"allowed {allowed:.2e}); compare the versions of diffusers, and look for NaN in its weights"
        )
