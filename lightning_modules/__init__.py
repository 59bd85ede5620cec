"""What trains: imported here so that checkpoints reload by class path."""

from lightning_modules.autoencoder_training import AutoencoderTraining
from lightning_modules.video_diffusion import VideoDiffusion

__all__ = ["AutoencoderTraining", "VideoDiffusion"]
