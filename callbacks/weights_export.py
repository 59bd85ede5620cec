"""Writes the network's weights as one safetensors file: averaged where an average is kept, with a header."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import lightning as L
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from callbacks.ema import ExponentialMovingAverage
from scene4d.atomic import replacing
from scene4d.distributed.sharding import reshard
from scene4d.networks.pretrained import refuse_non_finite

log = logging.getLogger(__name__)


class WeightsExport(L.Callback):
    """Writes `path` when training has ended, so that a file that is there holds finished weights.

    A run that is resumed when no step is left writes it too. Unfinished weights are in the checkpoints, which
    `validate` and `predict` read with `--ckpt_path`.

    Keys are those of `module` alone, so that the file loads into the network without Lightning. The header
    holds the step, the hash of the module's configuration, and whether the weights are averaged.

    Args:
        path: The safetensors file, relative to the trainer's default_root_dir. It appears whole or not at all.
        module: The attribute of the LightningModule whose weights are written.
        trainable_only: Whether to leave out what does not train. Such a file holds a part, which is loaded on top of
            the base weights; otherwise the file holds everything, buffers included.
        half: Whether to write float16 instead of the weights' own type.
    """

    def __init__(
        self, path: str, module: str = "network", trainable_only: bool = False, half: bool = False
    ) -> None:
        self.path, self.module, self.trainable_only, self.half = path, module, trainable_only, half
        self._written = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets earlier runs."""
        self._written = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exports the last weights, while they are still on their device."""
        self.export(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exports what a finished run's checkpoint held: Lightning skips the hooks of training there."""
        if not self._written:
            self.export(trainer, pl_module)

    def export(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the file; every rank must call it, rank 0 writes.

        Raises:
            ValueError: The LightningModule has no such network, or a weight is NaN or infinite.
        """
        network = getattr(pl_module, self.module, None)
        if not isinstance(network, torch.nn.Module):
            raise ValueError(f"{type(pl_module).__name__} has no network {self.module!r} to export")
        reshard(network)
        average = next((c for c in _callbacks(trainer) if isinstance(c, ExponentialMovingAverage)), None)
        averages = {} if average is None else average.current()
        weights = self._collect(network, averages)
        refuse_non_finite(weights, f"{self.path} is not written{' in float16' if self.half else ''}")
        whole = _gathered(weights, trainer.is_global_zero)
        if trainer.is_global_zero:
            self._write(Path(trainer.default_root_dir) / self.path, whole, {
                "step": str(trainer.global_step), "config_hash": config_hash(pl_module),
                "averaged": str(bool(averages)).lower(), "trainable_only": str(self.trainable_only).lower(),
            })  # fmt: skip
        self._written = True

    def _collect(self, network: torch.nn.Module, averages: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is written, still split over the ranks."""
        wanted = {
            name for name, p in network.named_parameters() if p.requires_grad or not self.trainable_only
        }
        if not self.trainable_only:
            wanted = set(network.state_dict())
        weights = {}
        for name, value in network.state_dict().items():
            if name in wanted:
                value = averages.get(f"{self.module}.{name}", value).detach().to(value.dtype)
                weights[name] = value.half() if self.half and value.is_floating_point() else value
        return weights

    def _write(self, path: Path, weights: dict[str, Tensor], header: dict[str, str]) -> None:
        with replacing(path) as temporary:
            tensors = {name: value.contiguous() for name, value in weights.items()}
            save_file(tensors, temporary, metadata=header)
        kind = "averaged" if header["averaged"] == "true" else "trained"
        log.info("%s weights of step %s -> %s", kind, header["step"], path)


def _gathered(weights: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU of the ranks that keep them, gathered one by one; every rank must call it."""
    whole = {}
    for name, value in weights.items():
        gathered = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            whole[name] = gathered.to("cpu", copy=True)
    return whole


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a connector


def config_hash(pl_module: L.LightningModule) -> str:
    """The first 12 hex digits of the SHA-256 of the module's saved hyperparameters."""
    text = json.dumps(dict(pl_module.hparams), sort_keys=True, default=_described)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _described(value: object) -> list[object]:
    """The class of an object and its plain settings, for example the weight of a loss."""
    settings = {
        name: x
        for name, x in getattr(value, "__dict__", {}).items()
        if isinstance(x, (bool, int, float, str))
    }
    return [getattr(value, "__qualname__", type(value).__qualname__), settings]
