"""The LightningModules, imported here so that checkpoints reload by class path."""

from lightning_modules.autoencoder_training import AutoencoderTraining
from lightning_modules.from_config import from_config
from lightning_modules.gaussian_reconstruction import GaussianReconstruction
from lightning_modules.geometry_pretraining import GeometryPretraining
from lightning_modules.video_diffusion import VideoDiffusion

__all__ = [
    "AutoencoderTraining",
    "GaussianReconstruction",
    "GeometryPretraining",
    "VideoDiffusion",
    "from_config",
]
