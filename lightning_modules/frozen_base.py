"""Checkpoints without what files gave and nothing trains: they record the base that they belong on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from scene4d.networks.pretrained import BASE, RecordedBase, base_name

SAMPLED = 64  # values of every tensor: two bases that differ only elsewhere would count as one
NAMED = ("pretrained", "weights")  # settings of a network that say which file or repository it starts from


class FrozenBase:
    """The frozen parameters that files gave to a LightningModule.

    These are the parameters that take no gradient and come from `initial_weights`, or from a network's own
    `pretrained` or `weights`. Every run builds them again from its config, so that checkpoints need not hold them.
    Frozen parameters that no file gave, and all buffers, are saved.
    """

    def __init__(self) -> None:
        self._replaced: set[str] = set()  # a checkpoint that holds everything has put other values there

    def leave_out(self, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the base out of a checkpoint that is about to be written; every rank must call it.

        Instead the checkpoint gets the paths and hub ids of the config, a fingerprint of the base and its names.
        """
        weights = checkpoint["state_dict"]
        own = module.state_dict()
        names = [name for name in self._names(module) if name in own]
        if not names:
            return
        checkpoint[BASE] = _record(module, own, names)
        for name in names:
            weights.pop(name, None)

    def put_back(self, module: L.LightningModule, checkpoint: dict[str, Any], what: str) -> None:
        """Completes a checkpoint that was read with the base of this run; one that holds everything stays so.

        Args:
            module: Built from this run's config.
            checkpoint: What was read; its weights are completed in place.
            what: What the message calls the checkpoint.

        Raises:
            ValueError: The checkpoint belongs on another base; names both.
        """
        weights, own = checkpoint["state_dict"], module.state_dict()
        left_out: RecordedBase | None = checkpoint.get(BASE)
        self._replaced = _differing(own, weights, self._names(module))
        if left_out is None:
            return
        if all(name in own and own[name].shape == value.shape for name, value in weights.items()):
            check_base(module, left_out, what)  # otherwise strict loading says which architecture differs
        checkpoint["state_dict"] = weights | {name: own[name] for name in left_out["names"] if name in own}

    def _names(self, module: L.LightningModule) -> list[str]:
        given = _from_files(module) - self._replaced
        return sorted(name for name, p in module.named_parameters() if name in given and not p.requires_grad)


def check_base(module: L.LightningModule, recorded: RecordedBase, what: str) -> None:
    """Compares the base of a module with the one that a checkpoint belongs on.

    Raises:
        ValueError: They differ; names both.
    """
    own = module.state_dict()
    present = _record(module, own, [name for name in recorded["names"] if name in own])
    if present["fingerprint"] != recorded["fingerprint"]:
        raise ValueError(
            f"{what} belongs on the base {base_name(recorded)}, this run has {base_name(present)}: it holds only what "
            "trained; give the settings and initial_weights of its training"
        )


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits that depend on names, shapes and 64 values of every tensor, spread over it.

    Values are rounded to bfloat16, so that the same weights are the same base in both types. Every rank must call
    it for tensors that are split over ranks.
    """
    digest, samples = hashlib.sha256(), []
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        whole = tensor.detach()
        flat = (whole.full_tensor() if isinstance(whole, DTensor) else whole).flatten()
        samples.append(flat[:: max(1, len(flat) // SAMPLED)].to(torch.bfloat16))
    if samples:  # one copy for all: a GPU is waited for once
        digest.update(torch.cat(samples).cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _record(module: L.LightningModule, own: Mapping[str, Tensor], names: list[str]) -> RecordedBase:
    files = list(getattr(module, "initial_weights", []))
    parts = [module.hparams.get(part) for part in ("network", "autoencoder")]
    return {
        "sources": list(dict.fromkeys([*_named_in(parts), *files])),
        "initial_weights": files,
        "fingerprint": fingerprint((name, own[name]) for name in names),
        "names": names,
    }


def _from_files(module: L.LightningModule) -> set[str]:
    """Names of what `initial_weights` and the networks' own files gave; what a base does not have is no part."""
    names = set(getattr(module, "loaded", ()))
    for part, network in module.named_children():
        if getattr(network, "has_weights", False):
            new = set(getattr(network, "new_weights", ()))
            names |= {f"{part}.{name}" for name, _ in network.named_parameters() if name not in new}
    return names


def _named_in(settings: object) -> list[str]:
    """Paths and hub ids in the settings of networks, as configs and `functools.partial` hold them."""
    if isinstance(settings, functools.partial):
        return _named_in(settings.keywords)
    if isinstance(settings, Mapping):
        here = [value for key, value in settings.items() if key in NAMED and isinstance(value, str)]
        return here + [path for value in settings.values() for path in _named_in(value)]
    return [path for part in settings for path in _named_in(part)] if isinstance(settings, list) else []


def _differing(own: Mapping[str, Tensor], given: Mapping[str, Tensor], names: Iterable[str]) -> set[str]:
    """Names whose given values are not the own ones."""
    pairs = ((name, own[name], given[name]) for name in names if name in own and name in given)
    return {name for name, a, b in pairs if a.shape != b.shape or not torch.equal(a, b.to(a.device, a.dtype))}
