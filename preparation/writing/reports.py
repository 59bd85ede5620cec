"""Shards with a report beside each, so that a preparation starts again where it stopped and says what it left out.

Beside every shard stands `reports/SHARD.json`: its recipe, samples and what was skipped and why. A shard is
finished when its report exists; one in which everything was skipped has a report but no tar file.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from preparation.writing.shards import write_encoded

logger = logging.getLogger(__name__)
NAMED_IN_LOG = 3


class Job(Protocol):
    """One shard to write."""

    @property
    def path(self) -> Path:
        """Of the shard."""

    def recipe(self) -> dict:
        """What decides the shard's content, as JSON would give it back."""


def is_finished(job: Job) -> bool:
    """Whether the shard is made.

    Raises:
        ValueError: It was made by another recipe; names it.
    """
    path = report_path(job.path)
    if not path.exists():
        return False
    report = json.loads(path.read_text())
    if report["recipe"] != job.recipe():
        raise ValueError(
            f"{job.path} was made from other scenes or options: {report['recipe']}, now {job.recipe()}; "
            "choose another --output or remove it and its report"
        )
    return job.path.exists() or report["samples"] == 0


def write_reported(job: Job, samples: Iterator[dict[str, Any]], skipped: dict[str, str]) -> dict:
    """Writes one shard and its report, in this order, and returns the report.

    Args:
        job: Says where, and from what.
        samples: Encoded members; while they are taken, `skipped` is filled.
        skipped: What was left out: reason by name.
    """
    started = time.monotonic()
    first = next(samples, None)
    count = 0 if first is None else write_encoded(job.path, chain([first], samples))
    report = {
        "shard": job.path.name, "recipe": job.recipe(), "samples": count,
        "seconds": round(time.monotonic() - started, 3), "skipped": skipped,
    }  # fmt: skip
    write_json(report_path(job.path), report)
    return report


def skip(skipped: dict[str, str], name: str, reason: str | Exception) -> None:
    """Notes in one line why something is left out, and logs it."""
    if isinstance(reason, Exception) and not isinstance(reason, ValueError):
        reason = f"{type(reason).__name__}: {reason}"
    skipped[name] = " ".join(str(reason).split())
    logger.warning("%s skipped: %s", name, skipped[name])


def summarise(jobs: Sequence[Job], scenes: int | None, path: Path) -> None:
    """Writes the report of all jobs and logs it.

    Args:
        jobs: All finished.
        scenes: How many there were; None: the samples and what was skipped.
        path: Of the report.

    Raises:
        ValueError: Not a single sample could be made; names the first reasons.
    """
    reports = [json.loads(report_path(job.path).read_text()) for job in jobs]
    skipped = {name: reason for report in reports for name, reason in report["skipped"].items()}
    samples = sum(report["samples"] for report in reports)
    scenes = samples + len(skipped) if scenes is None else scenes
    write_json(path, {"scenes": scenes, "samples": samples, "skipped": skipped})
    named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:NAMED_IN_LOG])
    more = f"; and {len(skipped) - NAMED_IN_LOG} more" if len(skipped) > NAMED_IN_LOG else ""
    logger.info(
        "%d samples of %d scenes, %d skipped%s%s%s; report: %s", samples, scenes, len(skipped),
        " - " if skipped else "", named, more, path,
    )  # fmt: skip
    if scenes and not samples:
        raise ValueError(f"none of {scenes} scenes could be used; first: {named}")


def report_path(shard: Path) -> Path:
    """Where the report of a shard is."""
    return shard.parent / "reports" / f"{shard.stem}.json"


def write_json(path: Path, content: dict) -> None:
    """Writes a file whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)
