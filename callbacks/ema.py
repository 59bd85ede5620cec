"""Exponential moving average of the trainable parameters, on one device or sharded by FSDP2."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from scene4d.distributed.sharding import gather, local, reshard, scatter


class ExponentialMovingAverage(L.Callback):
    """Averages the trainable parameters; validation, test and prediction see the averages.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that short runs are not held back by their
    first weights. Averages are float32, split over ranks as the parameters are, and saved whole in the
    callback's part of the checkpoint: a resumed run goes on with the same bits, on any number of ranks.
    `WeightsExport` writes them.

    Args:
        decay: Share of the old average that an update keeps, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}
        self.updates, self.step = 0, 0
        self._writes = True
        self._loaded: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}  # the trained values while the averages are in their place

    @torch.no_grad()
    def update(self, module: L.LightningModule) -> None:
        """Moves the averages towards the parameters."""
        parameters = trainable(module)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours = [local(self.averages[name]) for name in parameters]
        theirs = [local(p).to(a.dtype) for p, a in zip(parameters.values(), ours)]
        if ours:
            torch._foreach_lerp_(ours, theirs, 1 - decay)
        self.updates += 1

    def whole_averages(self) -> dict[str, Tensor]:
        """Whole float32 copies on the CPU, by parameter name; every rank must call it."""
        if self._loaded:  # nothing has run since the checkpoint was read
            return dict(self._loaded)
        return {name: gather(value) for name, value in self.averages.items()}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learns which rank writes."""
        self._writes = trainer.is_global_zero

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts from the checkpoint's averages, or from the parameters."""
        self._build(pl_module)
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates once an optimizer step, however many batches that takes."""
        if trainer.global_step > self.step:
            self.update(pl_module)
            self.step = trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the averages in the place of the parameters."""
        self._put(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the trained values back."""
        self._put_back(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Puts the trained values back if validation was interrupted, before anything is saved."""
        self._put_back(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Counters and, on rank 0, whole averages; plain tensors only."""
        assert not self._raw, (
            "a checkpoint must not be written while the averages are in the parameters' place"
        )
        whole = self.whole_averages()
        return {"updates": self.updates, "averages": whole if self._writes else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what `on_train_start` or an evaluation will put on the device."""
        self.updates, self._loaded = state_dict["updates"], state_dict["averages"]
        self.averages = {}

    @torch.no_grad()
    def _build(self, module: L.LightningModule) -> None:
        reshard(module)
        parameters = trainable(module)
        if self._loaded:
            missing = sorted(parameters.keys() ^ self._loaded.keys())
            if missing:
                raise ValueError(
                    f"averages of the checkpoint and trainable parameters differ, first in {missing[0]!r}; "
                    "resume with the same `trainable`, or remove the averaging callback"
                )
            self.averages = {name: scatter(self._loaded[name], p) for name, p in parameters.items()}
            self._loaded = {}
        elif not self.averages:
            self.averages = {name: p.detach().clone().float() for name, p in parameters.items()}

    @torch.no_grad()
    def _put(self, module: L.LightningModule) -> None:
        if self._loaded:
            self._build(module)
        if not self.averages or self._raw:
            return
        reshard(module)
        for name, parameter in trainable(module).items():
            values = local(parameter)
            self._raw[name] = values.clone()
            values.copy_(local(self.averages[name]))

    @torch.no_grad()
    def _put_back(self, module: L.LightningModule) -> None:
        if not self._raw:
            return
        reshard(module)
        for name, parameter in trainable(module).items():
            local(parameter).copy_(self._raw[name])
        self._raw = {}


def trainable(module: L.LightningModule) -> dict[str, Tensor]:
    """The parameters that an optimizer may change, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
