"""What a step of Lightning's trainer with the project's callbacks costs over a bare loop with the same network."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from statistics import median

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.bare_steps import BareSteps
from benchmarks.gpu.networks import TINY_WAN, wan
from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from callbacks import ExponentialMovingAverage, StepTimes, Throughput
from lightning_modules import VideoDiffusion
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.latent_grid import latent_frames
from scene4d.networks import PatchAutoencoder, WanGridTransformer
from scene4d.networks.autoencoder import autoencoder_fingerprint
from scene4d.types import SceneBatch

BLOCKS = 4  # the first one does not count
GRID, TINY_GRID = (8, 29, 144, 256), (2, 5, 32, 32)


def overhead(part: Part) -> None:
    """A network of short steps and one of long steps, with callbacks of configs/wan and without."""
    for network, steps in (("small preset", 20), ("wan2.1_1.3b", 5)):
        for callbacks in (True, False):
            labels: Cells = {"network": network, "callbacks": "EMA, times, rates" if callbacks else "none"}
            part.row(labels, partial(_row, part, network, 2 if part.tiny else steps, callbacks))


def _row(part: Part, name: str, steps: int, callbacks: bool) -> Cells:
    make = partial(_network, part, name)
    autoencoder = partial(PatchAutoencoder, channels=16, width=32, depth=1)
    module = VideoDiffusion(
        make, autoencoder, RectifiedFlow("velocity", clean_references=False, shift=3.0),
        checkpointing="none" if name == "small preset" else "selective",
    )  # fmt: skip
    module.configure_model()
    bare = BareSteps(steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(part, folder, BLOCKS * steps, [*_callbacks(callbacks), bare])
        trainer.fit(module, DataLoader([batch_of(part, module)] * BLOCKS * steps, batch_size=None))
    fit, loop = median(bare.framework), median(bare.bare[1:])
    return {"fit, s": fit, "bare, s": loop, "ratio": fit / loop}


def _network(part: Part, name: str) -> nn.Module:
    if name != "small preset":
        return wan(name, part.device, part.tiny)
    sizes = {"num_attention_heads": 2, "ffn_dim": 512, "num_layers": 8, "text_length": 1}
    with torch.device(part.device):
        return WanGridTransformer(in_channels=16, **(TINY_WAN | {"text_length": 1} if part.tiny else sizes))


def _callbacks(wanted: bool) -> list[L.Callback]:
    return [ExponentialMovingAverage(), Throughput(10), StepTimes(10)] if wanted else []


def _trainer(part: Part, folder: str, steps: int, callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if part.device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed",
        max_steps=steps, limit_val_batches=0, gradient_clip_val=1.0, log_every_n_steps=10,
        logger=CSVLogger(folder), callbacks=callbacks, default_root_dir=folder,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip


def batch_of(part: Part, module: VideoDiffusion) -> SceneBatch:
    """A grid of random latents as a data module gives it."""
    views, frames, height, width = TINY_GRID if part.tiny else GRID
    network = module.network
    reference = torch.zeros(1, views, frames, dtype=torch.bool)
    reference[:, 0], reference[:, :, 0] = True, True
    return SceneBatch(
        images=torch.full((1,) * 6, math.nan).expand(1, views, frames, 3, height, width), cameras=None,
        frame_times=torch.arange(frames)[None] / 24, reference=reference, source=["objects"], keys=["random"],
        text=torch.randn(1, network.text_length, network.base.config.text_dim),  # type: ignore[attr-defined]
        latents=torch.randn(1, views, latent_frames(frames), network.channels, height // 8, width // 8),
        autoencoder=autoencoder_fingerprint(module.autoencoder),
    )  # fmt: skip
