"""The training loss of every data source and of ranges of noise levels, between two times of logging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 4  # ranges of noise levels, equally wide


class LossFigures:
    """Collects losses and gives their means. Nothing is moved off the device until then.

    Lightning's `self.log` would write the value of an earlier step again for a source that did not come.
    """

    def __init__(self) -> None:
        self._sources: list[Sequence[str]] = []
        self._values: list[Float[Tensor, "2 b"]] = []

    def add(self, sources: Sequence[str], sigmas: Float[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Adds the losses of one batch, at the noise levels of its samples."""
        self._sources.append(sources)
        self._values.append(torch.stack([sigmas.detach(), losses.detach()]))

    def take(self) -> dict[str, float]:
        """The means since the last time, of what came: `train/loss_SOURCE` and `train/loss_sigma_FROM_TO`."""
        if not self._values:
            return {}
        sigmas, losses = torch.cat(self._values, 1).cpu()
        names = [f"train/loss_{source}" for sources in self._sources for source in sources]
        bins = (sigmas * BINS).long().clamp(max=BINS - 1).tolist()
        names += [f"train/loss_sigma_{place / BINS:.2f}_{(place + 1) / BINS:.2f}" for place in bins]
        self._sources.clear()
        self._values.clear()
        return _means(names, torch.cat([losses, losses]).tolist())


def _means(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        groups.setdefault(name, []).append(value)
    return {name: sum(group) / len(group) for name, group in sorted(groups.items())}
