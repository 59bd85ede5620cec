"""The result of an evaluation: rows (source, method, score, value, count). Reading them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Row:
    """One mean.

    Attributes:
        source: Name of the data source.
        method: The method that was scored, for example "sample" or "copy_freeze_time".
        score: Name of the score, for example "psnr".
        value: Mean over scenes.
        count: Number of scenes that have this score.
    """

    source: str
    method: str
    score: str
    value: float
    count: int
