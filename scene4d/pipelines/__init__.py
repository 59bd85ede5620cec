"""Inference of both models as plain objects: they hold networks, know no Lightning and can be called anywhere."""

from scene4d.pipelines.captions import Captions
from scene4d.pipelines.grid_generator import GridGenerator
from scene4d.pipelines.reconstructor import Reconstructor
from scene4d.pipelines.sampling import Sampling
from scene4d.pipelines.trained_on import TrainedOn

__all__ = ["Captions", "GridGenerator", "Reconstructor", "Sampling", "TrainedOn"]
