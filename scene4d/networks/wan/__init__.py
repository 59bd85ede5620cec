"""diffusers' Wan transformer on a view x time grid."""

from scene4d.networks.wan.model import WanGridTransformer

__all__ = ["WanGridTransformer"]
