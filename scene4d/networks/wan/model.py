"""diffusers' `WanTransformer3DModel` on a view x time grid (paper, sec. 3.1).

The base model is wrapped, not rewritten: an architecture replaces its attention and positions, and reference latents
go through the patch embedding. Its own forward pass knows videos alone and has no argument for views or references,
so `WanGridTransformer.forward` calls its layers in the same order, and no module keeps anything of a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scene4d.distributed.view_parallel import ViewPart
from scene4d.networks.deferred import Place, weights_are_deferred
from scene4d.networks.pretrained import load_weights
from scene4d.networks.sizes import refuse_size
from scene4d.networks.trainable import HALF_TYPES
from scene4d.networks.wan.architectures import Architecture, Fused
from scene4d.networks.wan.base import deferred_base, trained_base
from scene4d.networks.wan.initialization import initialize
from scene4d.networks.wan.invariants import base_output, check_invariants, tiny_input
from scene4d.networks.wan.lora import LoRA
from scene4d.networks.wan.patches import ReferencePatchEmbedding, grid_of
from scene4d.networks.wan.positions import GridPositions, RowColumnPositions

WAN_TEXT_LENGTH = 512


class WanGridTransformer(nn.Module):
    """The network of the 4D video diffusion model: predicts a grid from a noisy one, noise level, text and references.

    Weights in bfloat16 compute under autocast of their type, also where the trainer has none, so that weights that
    train, which `trainable_parameters` makes float32, work among them.

    Args:
        pretrained: Local folder or hub id of a Wan checkpoint in diffusers' layout. Its config.json then gives the
            sizes, and the sizes below are ignored.
        subfolder: Folder of the transformer inside `pretrained`.
        weights: A safetensors file of this network, for sizes given here; None starts from random weights.
        patch_size: Latent patch (time, height, width).
        num_attention_heads: Heads of every attention.
        attention_head_dim: Channels per head.
        in_channels: Latent channels.
        text_dim: Channels of the caption embedding.
        freq_dim: Channels of the sinusoidal noise-level embedding.
        ffn_dim: Hidden channels of the feed-forward layers.
        num_layers: Transformer blocks.
        architecture: How tokens of different views and times attend to each other: `Fused`, `Sequential` or
            `Parallel`. None means `Fused()`.
        adapter: Low-rank adapters on the base in `pretrained`, which train instead of its own weights.
        text_length: Captions are padded with zeros to so many tokens, which are attended to: Wan was trained so,
            with 512, and a sample must not depend on the captions beside it in its batch. None means 512 with
            `pretrained`, otherwise 1 (a sentence embedding).
        reference_bias: Whether the patch embedding of references is added with its bias, as the paper's words have
            it.
        dtype: Type of the weights that are read from `pretrained`, float32 or bfloat16. Weights that train become
            float32, and a network without `pretrained` is float32.

    Where it will be split over ranks, the weights of `pretrained` stay in their files at first, unless the architecture
    or an adapter adds parameters to them (`scene4d.networks.deferred`); checks that compute are then left out.

    Raises:
        ValueError: `dtype` is another type, weights are missing or of another architecture, or the base in
            `pretrained` fails a check (see `check_invariants`).
    """

    base: Any  # a WanTransformer3DModel, whose members diffusers declares to no type checker
    unused_weights: Sequence[str] = ()  # files must fit exactly

    def __init__(
        self,
        pretrained: str | None = None,
        subfolder: str = "transformer",
        weights: str | None = None,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 4,
        attention_head_dim: int = 64,
        in_channels: int = 32,
        text_dim: int = 384,
        freq_dim: int = 256,
        ffn_dim: int = 1024,
        num_layers: int = 8,
        architecture: Architecture | None = None,
        adapter: LoRA | None = None,
        text_length: int | None = None,
        reference_bias: bool = True,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
        if pretrained is None and adapter is not None:
            raise ValueError(
                "adapter: LoRA adapts a base that is trained, give its folder or hub id as pretrained"
            )
        # where weights are that stay in their files until the network is split over ranks
        self.deferred: dict[str, Place] = {}
        if pretrained is not None and _may_defer(architecture, adapter):
            self.base, files = deferred_base(pretrained, subfolder, dtype)
            self.deferred = {f"base.{name}": place for name, place in files.items()}
        elif pretrained is not None:
            self.base = trained_base(pretrained, subfolder, dtype)
        else:
            self.base = WanTransformer3DModel(
                patch_size=tuple(patch_size), num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim, in_channels=in_channels, out_channels=in_channels,
                text_dim=text_dim, freq_dim=freq_dim, ffn_dim=ffn_dim, num_layers=num_layers,
            )  # fmt: skip
            initialize(self.base)
        self.has_weights = pretrained is not None or weights is not None
        self.text_length = text_length or (1 if pretrained is None else WAN_TEXT_LENGTH)
        self.architecture: Architecture = architecture or Fused()
        self.patch_size: tuple[int, int, int] = tuple(self.base.config.patch_size)
        self.adapter = adapter
        if pretrained is None or self.deferred:
            self._replace_layers(reference_bias)
        else:
            given = tiny_input(self.base, self.text_length)
            expected = base_output(self.base, given)
            self._replace_layers(reference_bias)
            check_invariants(self, given, expected, self.base.dtype)
        if weights is not None:
            load_weights(self, weights)

    def _replace_layers(self, reference_bias: bool) -> None:
        """Makes the base one of grids; its weights keep their names, up to those of an adapter."""
        self.architecture.install(self.base)
        self.base.patch_embedding = ReferencePatchEmbedding(self.base.patch_embedding, reference_bias)
        if self.adapter is not None:
            self.adapter.install(self.base)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, from the input to the output."""
        return list(self.base.blocks)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.base.config.in_channels

    @property
    def splits_views(self) -> bool:
        """Whether ranks may have a part of a grid's views each; see `scene4d.distributed.view_parallel`."""
        return self.architecture.splits_views

    @property
    def default_trainable(self) -> Sequence[str]:
        """Regular expressions of the names of parameters that train by default."""
        if self.adapter is None:
            return self.architecture.trainable
        return [*self.adapter.trainable, *self.architecture.new]

    @property
    def optional_weights(self) -> Sequence[str]:
        """Prefixes of weights that files may leave out: what the base lacks, or all if it has weights already."""
        return ("",) if self.has_weights else self.new_weights

    @property
    def new_weights(self) -> Sequence[str]:
        """Names of the parameters that the base does not have."""
        names = (name for name, _ in self.named_parameters())
        return [name for name in names if any(re.search(new, name) for new in self.architecture.new)]

    def forward(
        self,
        latents: Float[Tensor, "b v n z y x"],
        sigmas: Float[Tensor, " b"],
        text: Float[Tensor, "b l d"] | None = None,
        references: Float[Tensor, "b v n z y x"] | None = None,
        reference_mask: Bool[Tensor, "b v n"] | None = None,
        part: ViewPart | None = None,
    ) -> Float[Tensor, "b v n z y x"]:
        """Predicts velocity (or data, as the objective reads it) for every latent of the grid.

        Args:
            latents: Noisy latents, n latent frames per view.
            sigmas: Noise level of every grid, in [0, 1].
            text: Caption embedding, at most `text_length` tokens; zeros at padding. None means no caption.
            references: Clean latents; only those under `reference_mask` are used.
            reference_mask: True where the latent is given.
            part: Which views of a grid these are, if other ranks have the others (`splits_views`).

        Raises:
            ValueError: A size is not divisible by the patch, latents or captions have another number of channels
                than the network, the grid is too large for the positions of the architecture, or there are more
                tokens of text than `text_length`.
        """
        text = latents.new_zeros(len(latents), 0, self.base.config.text_dim) if text is None else text
        self._check(latents, text)
        base, text = self.base, self._padded(text)
        with self._autocast(latents.device):
            positions = base.rope(latents, part)
            tokens = base.patch_embedding(latents, references, reference_mask)
            time, modulation, text, _ = base.condition_embedder(sigmas * 1000, text)
            tokens = self._attend(tokens, text, modulation.unflatten(1, (6, -1)), positions)
            return grid_of(self._predict(tokens, time), latents, self.patch_size)

    def _attend(
        self,
        tokens: Float[Tensor, "b l d"],
        text: Float[Tensor, "b k d"],
        modulation: Float[Tensor, "b 6 d"],
        positions: GridPositions | RowColumnPositions,
    ) -> Float[Tensor, "b l d"]:
        for block in self.base.blocks:
            tokens = block(tokens, text, modulation, positions)
        return tokens

    def _predict(
        self, tokens: Float[Tensor, "b l d"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l patch"]:
        shift, scale = (self.base.scale_shift_table + time[:, None]).chunk(2, 1)
        normalised = self.base.norm_out(tokens.float()) * (1 + scale) + shift
        return self.base.proj_out(normalised.type_as(tokens))

    def _autocast(self, device: torch.device) -> torch.autocast | nullcontext[None]:
        if not torch.amp.is_autocast_available(device.type) or torch.is_autocast_enabled(device.type):
            return nullcontext()  # the meta device has none
        half = next((p.dtype for p in self.base.parameters() if p.dtype in HALF_TYPES), None)
        return nullcontext() if half is None else torch.autocast(device.type, half)

    def _padded(self, text: Float[Tensor, "b l d"]) -> Float[Tensor, "b text_length d"]:
        if text.shape[1] > self.text_length:
            raise ValueError(f"a caption has {text.shape[1]} tokens, text_length is {self.text_length}")
        return F.pad(text, (0, 0, 0, self.text_length - text.shape[1]))

    def _check(self, latents: Float[Tensor, "b v n z y x"], text: Float[Tensor, "b l d"]) -> None:
        frames, channels, height, width = latents.shape[2:]
        config, (pt, ph, pw) = self.base.config, self.patch_size
        if channels != config.in_channels:
            raise ValueError(
                f"latents have {channels} channels, the network takes {config.in_channels}: use the autoencoder of "
                "the network's own checkpoint"
            )
        if text.shape[2] != config.text_dim:
            raise ValueError(
                f"captions have {text.shape[2]} channels, the network takes {config.text_dim}: embed them with the "
                "text encoder of the network's own checkpoint"
            )
        refuse_size("latents", (height, width), (ph, pw), f"the patch {ph} x {pw}")
        if frames % pt:
            raise ValueError(f"{frames} latent frames are not divisible by the patch's {pt}")


def _may_defer(architecture: Architecture | None, adapter: LoRA | None) -> bool:
    """Whether the base's weights may stay in their files: nothing that is added to them starts from their values."""
    return weights_are_deferred() and adapter is None and not (architecture and architecture.new)
