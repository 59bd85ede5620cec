"""Inference of both models as plain objects: they hold networks, know no Lightning and can be called anywhere."""

from scene4d.pipelines.grid_generator import GridGenerator

__all__ = ["GridGenerator"]
