"""Judging a pipeline scene by scene, with the same rows as result on every rank."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from scene4d.distributed.agreement import from_all_ranks, is_first_rank
from scene4d.evaluation.rows import Row
from scene4d.types import SceneBatch

log = logging.getLogger(__name__)

Pipeline = TypeVar("Pipeline", contravariant=True)


class Evaluation(Protocol[Pipeline]):
    """Judges a pipeline: `start` once, `add` for every batch, `compute` once.

    All ranks call each of them equally often, with batches of the same source at the same time.

    Attributes:
        pictures: Contact sheets by name.
    """

    pictures: dict[str, Float[Tensor, "c h w"]]

    def start(self, device: torch.device) -> None:
        """Forgets all scores; scoring will happen on `device`."""

    def add(self, pipeline: Pipeline, batch: SceneBatch) -> None:
        """Scores every scene of a batch of one source."""

    def compute(self) -> list[Row]:
        """Means over all scenes that any rank has seen."""


class SceneScores(Metric):
    """Keeps the scores of scenes and computes their means over all ranks.

    A scene counts once, however often it was scored: data loaders repeat samples to give every rank equally many
    batches. Sums run in one fixed order, so that the means do not depend on batches or ranks.

    A method that failed in a scene has no scores there. The means are those of the other scenes, and `compute` warns of
    it, because a failure is not a score without meaning.

    Args:
        methods: What is compared.
        scores: Names of the scores of a method.
        undefined: Whether a score that is NaN or infinite has no meaning for that scene and is left out. Otherwise it
            makes the mean NaN, as a loss that has diverged must.
    """

    ids: list[Tensor] | Tensor
    values: list[Tensor] | Tensor
    failures: list[Tensor] | Tensor

    def __init__(self, methods: Sequence[str], scores: Sequence[str], undefined: bool = True) -> None:
        super().__init__()
        self.undefined = undefined
        self.methods, self.scores = list(methods), list(scores)
        self.sources: dict[int, str] = {}
        self.add_state("ids", [], dist_reduce_fx="cat")  # each 1 x (source, scene, method)
        self.add_state("values", [], dist_reduce_fx="cat")  # each 1 x scores, NaN where there is none
        self.add_state("failures", [], dist_reduce_fx="cat")  # each 1, whether the method failed
        self._begin()

    def reset(self) -> None:
        """Forgets all scores."""
        super().reset()
        self.sources.clear()
        self._begin()

    def _begin(self) -> None:
        """No scenes, in tensors that can be joined with those of other ranks: this one may get none."""
        self.ids = [torch.empty(0, 3, dtype=torch.int64, device=self.device)]
        self.values = [torch.empty(0, len(self.scores), dtype=torch.float64, device=self.device)]
        self.failures = [torch.empty(0, dtype=torch.uint8, device=self.device)]

    def update(
        self, source: str, key: str, method: str, scores: dict[str, float], failed: bool = False
    ) -> None:
        """Adds one scene's scores of one method.

        Args:
            source: Name of the data source.
            key: Name of the scene, unique within its source.
            method: One of `methods`.
            scores: Values by name.
            failed: Whether what the method made is unusable, for example NaN; its scores are left out then.

        Raises:
            ValueError: An unknown method or score, named.
        """
        row = [math.nan] * len(self.scores)
        for name, value in scores.items():
            row[_index(self.scores, name)] = value if math.isfinite(value) and not failed else math.nan
        ids = (_number(source), scene_number(source, key), _index(self.methods, method))
        self.sources[ids[0]] = source
        assert (
            isinstance(self.ids, list) and isinstance(self.values, list) and isinstance(self.failures, list)
        )
        self.ids.append(torch.tensor([ids], device=self.device))
        self.failures.append(torch.tensor([failed], dtype=torch.uint8, device=self.device))
        self.values.append(torch.tensor([row], dtype=torch.float64, device=self.device))

    def compute(self) -> list[Row]:
        """Rows in the order of sources as they came, methods and scores; those without any value are left out.

        Every rank must call it, also one that has scored nothing; all get the same rows.
        """
        everywhere = from_all_ranks(self.sources)  # one order, whatever a rank has met first
        self.sources = {number: source for known in everywhere for number, source in known.items()}
        if is_first_rank():
            self._warn_of_failures()
        ids, values = dim_zero_cat(self.ids).tolist(), dim_zero_cat(self.values).tolist()
        found = dict(sorted((tuple(key), row) for key, row in zip(ids, values)))  # every scene once
        rows = []
        for number, source in self.sources.items():
            for m, method in enumerate(self.methods):
                scenes = [row for key, row in found.items() if (key[0], key[2]) == (number, m)]
                for s, score in enumerate(self.scores):
                    known = [row[s] for row in scenes if not (self.undefined and math.isnan(row[s]))]
                    if known:
                        rows.append(Row(source, method, score, math.fsum(known) / len(known), len(known)))
        return rows

    def _warn_of_failures(self) -> None:
        """Says for every source and method in how many scenes it failed, and which share that is."""
        found = dict(zip(map(tuple, dim_zero_cat(self.ids).tolist()), dim_zero_cat(self.failures).tolist()))
        for number, source in self.sources.items():
            for m, method in enumerate(self.methods):
                failed = [bad for key, bad in found.items() if (key[0], key[2]) == (number, m)]
                if any(failed):
                    log.warning(
                        "%s: what %r made of %d of %d scenes holds NaN; the means are those of the other scenes",
                        source, method, sum(failed), len(failed),
                    )  # fmt: skip


def scene_number(source: str, key: str) -> int:
    """A number that all ranks give to a scene."""
    return _number(f"{source}/{key}")


def _number(text: str) -> int:
    """A number that all ranks give to a text; 63 bits of a hash."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _index(names: list[str], name: str) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is not one of {', '.join(names)}")
    return names.index(name)
