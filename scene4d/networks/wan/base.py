"""The members of diffusers' `WanTransformer3DModel` that are used here; diffusers declares them to no type checker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class WanConfig(Protocol):
    """The settings of a base that are read."""

    patch_size: tuple[int, int, int]
    attention_head_dim: int
    in_channels: int
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
