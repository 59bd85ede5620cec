"""The base model: the members of diffusers' `WanTransformer3DModel` that are used here, and its weights from disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from scene4d.networks.deferred import Place
from scene4d.networks.diffusers_layout import diffusers_skeleton, load_diffusers_model


class WanConfig(Protocol):
    """The settings of a base that are read."""

    patch_size: tuple[int, int, int]
    attention_head_dim: int
    num_attention_heads: int
    in_channels: int
    out_channels: int
    image_dim: int | None
    text_dim: int


class WanBase(Protocol):
    """A `WanTransformer3DModel`."""

    config: WanConfig
    dtype: torch.dtype
    rope: nn.Module
    blocks: nn.ModuleList
    attn_processors: Mapping[str, object]

    def set_attn_processor(self, processor: Mapping[str, object]) -> None: ...

    def add_adapter(self, adapter_config: object) -> None: ...

    def fuse_lora(self) -> None: ...

    def unload_lora(self) -> None: ...

    def save_lora_adapter(self, save_directory: Path) -> None: ...

    def save_pretrained(self, save_directory: Path, *, max_shard_size: str) -> None: ...

    def __call__(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *, return_dict: bool
    ) -> tuple[Tensor]: ...


def trained_base(pretrained: str, subfolder: str, dtype: str) -> WanBase:
    """Loads a text-to-video base.

    Args:
        pretrained: Local folder or hub id in diffusers' layout.
        subfolder: Folder of the transformer inside it.
        dtype: Type of the weights, float32 or bfloat16.

    Raises:
        ValueError: The checkpoint is missing, damaged or of another class, or it is the base of
            another task, for example of image-to-video.
    """
    load: Callable[..., WanBase] = (
        load_diffusers_model  # diffusers declares the members of its model to nobody
    )
    base = load(WanTransformer3DModel, pretrained, subfolder, getattr(torch, dtype))
    _refuse_other_task(base.config, pretrained)
    return base


def deferred_base(pretrained: str, subfolder: str, dtype: str) -> tuple[WanBase, dict[str, Place]]:
    """The same base without values, and where they are: see `scene4d.networks.deferred`."""
    load: Callable[..., tuple[WanBase, dict[str, Place]]] = diffusers_skeleton
    base, files = load(WanTransformer3DModel, pretrained, subfolder, getattr(torch, dtype))
    _refuse_other_task(base.config, pretrained)
    return base, files


def _refuse_other_task(config: WanConfig, pretrained: str) -> None:
    if config.in_channels != config.out_channels or config.image_dim is not None:
        raise ValueError(
            f"{pretrained!r} is no text-to-video base: it takes {config.in_channels} channels and gives "
            f"{config.out_channels}, with image_dim {config.image_dim}; use a T2V or TI2V checkpoint of Wan"
        )
