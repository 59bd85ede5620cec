"""What training steps find, as means over the samples of all ranks between two times of logging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum

import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.distributed.agreement import from_all_ranks

BINS = 4  # ranges of noise levels, equally wide


class LossFigures:
    """Collects figures and gives their means. Until then nothing is moved off the device, and no rank asks another.

    Every sample counts alike, whichever rank, batch or source it came from: a rank whose batch held nothing useful
    counts nothing. Lightning's `self.log` would show rank 0's last batch alone, and would write the value of an
    earlier step again for a source that did not come.
    """

    def __init__(self) -> None:
        self._names: list[Sequence[str]] = []
        self._counts: list[int] = []  # samples that every value of an entry stands for
        self._values: list[Float[Tensor, " n"]] = []
        self._totals: dict[str, float] = {}

    def add(self, means: Mapping[str, Float[Tensor, ""]], count: int) -> None:
        """Adds means over the samples of one batch.

        Args:
            means: By name.
            count: The number of samples.
        """
        if means:
            values = torch.stack([value.detach().float() for value in means.values()])
            self._put(list(means), count, values)

    def add_samples(
        self, sources: Sequence[str], sigmas: Float[Tensor, " b"], losses: Float[Tensor, " b"]
    ) -> None:
        """Adds the losses of one batch by source, and by the noise levels of its samples."""
        self._put([f"train/loss_{source}" for source in sources], 1, losses.detach())
        self._put([], 1, torch.stack([sigmas.detach(), losses.detach()]).flatten())

    def set_total(self, name: str, count: float) -> None:
        """Sets what this rank has counted so far; the figure is the sum over ranks."""
        self._totals[name] = count

    def take(self) -> dict[str, float]:
        """The figures since the last time, of what came on any rank; every rank must call it.

        `train/loss_SOURCE` and `train/loss_sigma_FROM_TO` are the mean losses of sources and ranges of noise levels.
        """
        sums, totals = self._sums(), dict(self._totals)
        self.forget()
        ranks = from_all_ranks((sums, totals))
        names = sorted({name for own, _ in ranks for name in own})
        found = {name: [own[name] for own, _ in ranks if name in own] for name in names}
        means = {name: fsum(x for x, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}
        counted = sorted({name for _, own in ranks for name in own})
        return means | {name: fsum(own.get(name, 0.0) for _, own in ranks) for name in counted}

    def forget(self) -> None:
        """Drops what came since the last time."""
        self._names, self._counts, self._values = [], [], []

    def _put(self, names: Sequence[str], count: int, values: Float[Tensor, " n"]) -> None:
        self._names.append(names)
        self._counts.append(count)
        self._values.append(values)

    def _sums(self) -> dict[str, tuple[float, int]]:
        """Sum over samples and their number on this rank, by name."""
        groups: dict[str, list[tuple[float, int]]] = {}
        lengths = [len(values) for values in self._values]
        values = torch.cat(self._values).cpu().split(lengths) if lengths else ()
        for names, count, part in zip(self._names, self._counts, values, strict=True):
            if not names:  # noise levels, then their losses
                sigmas, part = part.chunk(2)
                names = [_range(place) for place in (sigmas * BINS).long().clamp(max=BINS - 1).tolist()]
            for name, value in zip(names, part.tolist(), strict=True):
                groups.setdefault(name, []).append((value * count, count))
        return {name: (fsum(x for x, _ in group), sum(n for _, n in group)) for name, group in groups.items()}


def _range(place: int) -> str:
    return f"train/loss_sigma_{place / BINS:.2f}_{(place + 1) / BINS:.2f}"
