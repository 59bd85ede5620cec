"""Checkpoints without the frozen weights that files have given: a record of where these came from takes their place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scene4d.networks.recorded_base import KEY, described, frozen_fingerprint

ADAPTERS = re.compile(r"\.lora_")  # no file of a base has them


class FrozenBase:
    """Knows which frozen weights files have given to a module, and keeps them out of its checkpoints."""

    def __init__(self) -> None:
        self.given: set[str] = set()  # names in the module's state_dict
        self._fingerprint: tuple[tuple[str, ...], str] | None = None

    def note(self, network: nn.Module, kept: Iterable[str]) -> None:
        """Learns what files have given to `network`.

        Args:
            network: Has its weights.
            kept: Names that no file of `initial_weights` gave.
        """
        names = set(network.state_dict())
        self.given = {f"network.{name}" for name in names - set(kept)}
        if getattr(network, "has_weights", False):
            new = set(getattr(network, "new_weights", ()))
            self.given |= {f"network.{name}" for name in names - new if not ADAPTERS.search(name)}

    def remove(self, module: nn.Module, checkpoint: dict[str, Any], files: Sequence[str]) -> None:
        """Takes out of a checkpoint what the files give again, and writes down what they were.

        Args:
            module: The module of the checkpoint.
            checkpoint: Changed in place.
            files: Paths and hub ids of the config.
        """
        frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
        own = {name: p for name, p in frozen.items() if name in self.given | _autoencoder(module)}
        left = {name: p for name, p in own.items() if name in checkpoint["state_dict"]}
        if not left:
            return
        for name in left:
            del checkpoint["state_dict"][name]
        if self._fingerprint is None or self._fingerprint[0] != tuple(left):
            self._fingerprint = (tuple(left), frozen_fingerprint(left))  # frozen: once is enough
        checkpoint[KEY] = {
            "names": list(left), "files": list(files), "fingerprint": self._fingerprint[1],
            "initial": list(getattr(module, "initial_weights", [])),
        }  # fmt: skip

    def restore(self, module: nn.Module, checkpoint: dict[str, Any], files: Sequence[str]) -> None:
        """Puts the module's own frozen weights where a checkpoint has left them out; without copying them.

        What a complete checkpoint holds in other values than the files is no longer theirs, and is saved from now on.

        Args:
            module: Built, with the weights of its files.
            checkpoint: Changed in place.
            files: Paths and hub ids of this run's config.

        Raises:
            ValueError: The module has another base than the checkpoint; names both.
        """
        own = module.state_dict()
        saved = checkpoint["state_dict"]
        self._fingerprint = None
        self.given -= {n for n in self.given if n in saved and n in own and not _same(saved[n], own[n])}
        if KEY in checkpoint:
            refuse_other_base(own, checkpoint[KEY], files)
            saved.update({name: own[name] for name in checkpoint[KEY]["names"]})


def refuse_other_base(own: Mapping[str, Tensor], record: Mapping[str, Any], files: Sequence[str]) -> None:
    """Compares a module's frozen weights with those that a checkpoint was trained on.

    Raises:
        ValueError: They differ; names both bases.
    """
    fingerprint = frozen_fingerprint({name: own[name] for name in record["names"] if name in own})
    if fingerprint != record["fingerprint"]:
        here = described({"files": files, "fingerprint": fingerprint})
        raise ValueError(
            f"the checkpoint belongs on the base {described(record)}, this run has {here}; "
            "configure the checkpoint's base"
        )


def base_files(module: nn.Module, initial_weights: Sequence[str]) -> list[str]:
    """Paths and hub ids of the weights of a module, as its config names them, those of `initial_weights` last."""
    settings = getattr(module, "hparams", {})
    found = [path for name in ("network", "autoencoder") for path in _named(settings.get(name))]
    return [*found, *initial_weights]


def _named(settings: object) -> list[str]:
    """The values of `pretrained` and `weights` in nested settings."""
    if not isinstance(settings, Mapping):
        return []
    own = [settings[key] for key in ("pretrained", "weights") if isinstance(settings.get(key), str)]
    return own + [path for value in settings.values() for path in _named(value)]


def _autoencoder(module: nn.Module) -> set[str]:
    """Names of a frozen autoencoder that starts from weights."""
    autoencoder = getattr(module, "autoencoder", None)
    if not isinstance(autoencoder, nn.Module) or not getattr(autoencoder, "has_weights", False):
        return set()
    return {f"autoencoder.{name}" for name in autoencoder.state_dict()}


def _same(saved: Tensor, own: Tensor) -> bool:
    if type(own) not in (Tensor, nn.Parameter):  # split over ranks: the values of a file are compared before
        return True
    return saved.shape == own.shape and torch.equal(saved.to(own.device, own.dtype), own)
