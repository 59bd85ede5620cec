"""Exponential moving average of the trainable parameters, on one device or sharded by FSDP2."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from scene4d.distributed.sharding import gather, local, reshard, scatter


class ExponentialMovingAverage(L.Callback):
    """Averages the trainable parameters; validation, test and prediction see the averages.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first weights do not dominate the
    averages of short runs. Averages are float32 and split over ranks as the parameters are. They are saved in the
    callback's part of the checkpoint, beside the trained values: a resumed run goes on with the same bits, on
    any number of ranks, and also when the checkpoint was written in the middle of a validation.
    `WeightsExport` writes the averages.

    Args:
        decay: The share of the old average that an update keeps, in [0, 1); closer to 1 averages over more steps.
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
        self._hook: RemovableHandle | None = None

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

    def current(self) -> dict[str, Tensor]:
        """The averages by parameter name, split over ranks as the parameters are."""
        return self._loaded or self.averages  # loaded ones if nothing has run since the checkpoint was read

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learns which rank writes."""
        self._writes = trainer.is_global_zero

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts from the checkpoint's averages, or from the parameters."""
        self._build(pl_module)
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Updates once per optimizer step, however many batches that takes."""
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
        """Counters and averages; of averages that are not split, rank 0 alone gives copies."""
        averages = {name: value.detach() for name, value in self.current().items()}
        if not any(isinstance(value, DTensor) for value in averages.values()):
            averages = {name: gather(value) for name, value in averages.items()} if self._writes else {}
        return {"updates": self.updates, "averages": averages}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Forgets the averages of earlier weights; the checkpoint's own follow, if it has any."""
        self.updates, self.averages, self._loaded = 0, {}, {}

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
            self._raw[name] = parameter.detach().clone()
            local(parameter).copy_(local(self.averages[name]))
        self._hook = module.register_state_dict_post_hook(partial(self._tell_trained_values))

    @torch.no_grad()
    def _put_back(self, module: L.LightningModule) -> None:
        if not self._raw:
            return
        reshard(module)
        for name, parameter in trainable(module).items():
            local(parameter).copy_(local(self._raw[name]))
        self._raw = {}
        if self._hook is not None:
            self._hook.remove()

    def _tell_trained_values(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
    ) -> None:
        """Puts the trained values into every checkpoint that is asked for during validation, as a preemption may.

        The parameters hold the averages at that moment and keep them. A hook of the module's, not of the callback's:
        Lightning calls no callback for a checkpoint of weights alone.
        """
        for name, trained in self._raw.items():
            if prefix + name in state_dict:
                state_dict[prefix + name] = trained


def trainable(module: L.LightningModule) -> dict[str, Tensor]:
    """The parameters that an optimizer may change, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
