"""Training steps without Lightning between those of `fit`, to measure what the framework costs."""

from __future__ import annotations

import time
from dataclasses import replace

import lightning as L
import torch

from lightning_modules import VideoDiffusion
from scene4d.latent_grid import latent_reference_mask
from scene4d.types import SceneBatch


class BareSteps(L.Callback):
    """After every block of steps of `fit` it takes as many steps without Lightning, on the last batch.

    Args:
        steps: Optimizer steps of a block.
    """

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps
        self.framework: list[float] = []  # seconds per step
        self.bare: list[float] = []
        self._start: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Measures both at the end of a block."""
        if trainer.global_step % self.steps:
            return
        now = _now(pl_module)
        if self._start is not None:
            self.framework.append((now - self._start) / self.steps)
        assert isinstance(pl_module, VideoDiffusion) and isinstance(batch, SceneBatch)
        optimizer = trainer.optimizers[0]
        for _ in range(self.steps):
            _bare_step(pl_module, batch, optimizer, trainer)
        self._start = _now(pl_module)
        self.bare.append((self._start - now) / self.steps)


def _bare_step(
    module: VideoDiffusion, batch: SceneBatch, optimizer: torch.optim.Optimizer, trainer: L.Trainer
) -> None:
    optimizer.zero_grad()
    if batch.has_images:  # `fit` encodes every batch, too
        batch = replace(batch, latents=module.generator.encode(batch.images))
    assert batch.latents is not None
    with trainer.precision_plugin.forward_context():
        sigmas = module.flow.draw_sigmas(len(batch.latents), torch.Generator()).to(module.device)
        noise, mask = torch.randn_like(batch.latents), latent_reference_mask(batch.reference)
        module.flow.loss(module.network, batch.latents, mask, batch.text, sigmas, noise).mean().backward()
    torch.nn.utils.clip_grad_norm_([p for p in module.network.parameters() if p.grad is not None], 1.0)
    optimizer.step()


def _now(module: L.LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()
