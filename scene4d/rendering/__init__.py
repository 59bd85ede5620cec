"""Rendering of 3D Gaussians: gsplat on CUDA, our own differentiable rasterizer on the CPU."""

from scene4d.rendering.rasterization import rasterize
from scene4d.rendering.render import render_gaussians

__all__ = ["rasterize", "render_gaussians"]
