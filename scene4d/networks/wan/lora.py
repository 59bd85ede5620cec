"""Low-rank adapters on the self-attention, the cheap alternative to fine-tuning all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scene4d.networks.wan.base import WanBase


@dataclass(frozen=True)
class LoRA:
    """Adds low-rank updates to linear layers of the base, which change nothing before training (Hu et al. 2022).

    The layers come from the package peft, through diffusers' own interface.

    Args:
        rank: Rank of the updates; more parameters train with a higher one.
        alpha: The updates are multiplied by alpha / rank. None means the rank, that is a factor of 1.
        layers: Regular expression of the names of the linear layers, as in the base.
    """

    rank: int = 64
    alpha: int | None = None
    layers: str = r".*\.attn1\.(to_q|to_k|to_v|to_out\.0)"
    trainable: ClassVar[Sequence[str]] = (r"\.lora_[AB]\.",)

    def install(self, base: WanBase) -> None:
        """Puts the adapters into a base that has its weights.

        Raises:
            ImportError: The package peft is missing; says how to install it.
            ValueError: The expression fits no linear layer.
        """
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError("LoRA needs the package peft: pip install 'scene4d[lora]'") from error
        alpha = self.rank if self.alpha is None else self.alpha
        base.add_adapter(LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=self.layers))
