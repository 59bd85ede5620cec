"""diffusers' Wan transformer on a view x time grid."""

from scene4d.networks.wan.architectures import Fused, Parallel, Sequential
from scene4d.networks.wan.lora import LoRA
from scene4d.networks.wan.model import WanGridTransformer
from scene4d.networks.wan.positions import Diagonal, ViewAfterView

__all__ = ["Diagonal", "Fused", "LoRA", "Parallel", "Sequential", "ViewAfterView", "WanGridTransformer"]
