"""The members that LightningModules and pipelines may use of a network; the networks here fulfil these protocols.

Nothing has to be inherited: a network of your own fits if it is an `nn.Module` with these members. It keeps nothing of
a call on its modules, and it says itself which weight files it accepts. The tests check types at run time, which needs
protocols that are checkable then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scene4d.types import Prediction

M = TypeVar("M", bound="Module")


@runtime_checkable
class Module(Protocol):
    """The part of `nn.Module` that users of a network need."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> object: ...

    def train(self: M, mode: bool = True) -> M: ...

    def eval(self: M) -> M: ...

    def requires_grad_(self: M, requires_grad: bool = True) -> M: ...

    def to(self: M, device: torch.device | str) -> M: ...


@runtime_checkable
class TrainedNetwork(Module, Protocol):
    """A network that starts from weight files and is compiled, checkpointed and sharded from outside."""

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The repeated blocks, in which nearly all of its work and its weights are."""
        ...

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights that were trained, so that it can be used without any file."""
        ...

    @property
    def optional_weights(self) -> Sequence[str]:
        """Prefixes of weights that files may leave out; they keep their initial values."""
        ...

    @property
    def unused_weights(self) -> Sequence[str]:
        """Prefixes of weights that files may hold although the network has no such part."""
        ...


@runtime_checkable
class DiffusionNetwork(TrainedNetwork, Protocol):
    """The network of the 4D video diffusion model, for example `scene4d.networks.WanGridTransformer`."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def default_trainable(self) -> Sequence[str]:
        """Regular expressions of the names of parameters that train unless a config says otherwise."""
        ...

    def forward(
        self,
        latents: Float[Tensor, "b v n z y x"],
        sigmas: Float[Tensor, " b"],
        text: Float[Tensor, "b l d"] | None = None,
        references: Float[Tensor, "b v n z y x"] | None = None,
        reference_mask: Bool[Tensor, "b v n"] | None = None,
    ) -> Float[Tensor, "b v n z y x"]:
        """Predicts velocity or data, as the objective reads it, for every latent of a grid.

        Args:
            latents: Noisy latents, n latent frames per view.
            sigmas: Noise level of every grid, in [0, 1].
            text: Caption embedding, zeros at padding; None means no caption.
            references: Clean latents; only those under `reference_mask` may be used.
            reference_mask: True where the latent is given.
        """
        ...

    def __call__(
        self,
        latents: Float[Tensor, "b v n z y x"],
        sigmas: Float[Tensor, " b"],
        text: Float[Tensor, "b l d"] | None = None,
        references: Float[Tensor, "b v n z y x"] | None = None,
        reference_mask: Bool[Tensor, "b v n"] | None = None,
    ) -> Float[Tensor, "b v n z y x"]: ...


@runtime_checkable
class SizedNetwork(Protocol):
    """A network that says which images it accepts; one that does not gets them as they are."""

    @property
    def patch_size(self) -> int:
        """Side of its patches, pixels: height and width of the images must be multiples."""
        ...

    @property
    def image_size(self) -> int:
        """Reference length of the longer side of images whose own size does not fit, pixels."""
        ...


@runtime_checkable
class SceneNetwork(TrainedNetwork, Protocol):
    """The network of the reconstruction, for example `scene4d.networks.vggt.ReconstructionNetwork`."""

    def forward(self, images: Float[Tensor, "b v t 3 h w"]) -> Prediction:
        """Predicts cameras, depth and raw Gaussian parameters from images in [0, 1]."""
        ...

    def __call__(self, images: Float[Tensor, "b v t 3 h w"]) -> Prediction: ...


@runtime_checkable
class Autoencoder(Module, Protocol):
    """A causal video autoencoder (`scene4d.latent_grid`) that computes in float32 whatever the trainer's precision.

    `autoencoder_fingerprint` tells any two of them apart by their class and weights.
    """

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights that were trained."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def stride(self) -> int:
        """Pixels along the side of a latent; images must be divisible by it."""
        ...

    def encode(self, video: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n z m y x"]:
        """Turns a video in [-1, 1] into latents of about zero mean and unit variance."""
        ...

    def decode(self, latents: Float[Tensor, "n z m y x"]) -> Float[Tensor, "n c t h w"]:
        """Turns latents into a video, about in [-1, 1]."""
        ...
