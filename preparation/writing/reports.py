"""Shards with a report beside each, so that a preparation goes on where it stopped and names everything it left out.

The report of a shard is `reports/SHARD.json`. It holds the recipe, the number of samples, and the reason for
everything that was skipped. A shard is finished when its report exists; one in which everything was skipped has a
report but no tar file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol, TypedDict

from datamodules.archives import Members
from preparation.writing.shards import write_encoded
from scene4d.atomic import write_text

logger = logging.getLogger(__name__)
NAMED_IN_LOG = 3


class Job(Protocol):
    """One shard to write."""

    @property
    def path(self) -> Path:
        """Path of the shard."""

    def recipe(self) -> dict[str, object]:
        """Everything that decides the content of the shard, as JSON would give it back."""


class Report(TypedDict):
    """Content of the file beside a shard."""

    shard: str
    recipe: dict[str, object]
    samples: int
    seconds: float
    skipped: dict[str, str]


def is_finished(job: Job) -> bool:
    """Tells whether the shard is made.

    Raises:
        ValueError: The shard was made by another recipe; names it.
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


def write_reported(job: Job, samples: Iterator[Members], skipped: dict[str, str]) -> Report:
    """Writes one shard and its report, in this order, and returns the report.

    Args:
        job: The shard to write.
        samples: Encoded members of the samples; `skipped` is filled while they are taken.
        skipped: Everything that was left out, as reasons by name.
    """
    started = time.monotonic()
    first = next(samples, None)
    count = 0 if first is None else write_encoded(job.path, chain([first], samples))
    report: Report = {
        "shard": job.path.name, "recipe": job.recipe(), "samples": count,
        "seconds": round(time.monotonic() - started, 3), "skipped": skipped,
    }  # fmt: skip
    write_text(report_path(job.path), json.dumps(report, indent=1))
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
        jobs: The finished jobs.
        scenes: Number of scenes; None counts the samples and everything skipped instead.
        path: Path of the report.

    Raises:
        ValueError: Not a single sample could be made; names the first reasons.
    """
    reports: list[Report] = [json.loads(report_path(job.path).read_text()) for job in jobs]
    skipped = {name: reason for report in reports for name, reason in report["skipped"].items()}
    samples = sum(report["samples"] for report in reports)
    scenes = samples + len(skipped) if scenes is None else scenes
    write_text(path, json.dumps({"scenes": scenes, "samples": samples, "skipped": skipped}, indent=1))
    named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:NAMED_IN_LOG])
    more = f"; and {len(skipped) - NAMED_IN_LOG} more" if len(skipped) > NAMED_IN_LOG else ""
    logger.info(
        "%d samples of %d scenes, %d skipped%s%s%s; report: %s", samples, scenes, len(skipped),
        " - " if skipped else "", named, more, path,
    )  # fmt: skip
    if scenes and not samples:
        raise ValueError(f"none of {scenes} scenes could be used; first: {named}")


def report_path(shard: Path) -> Path:
    """Returns where the report of a shard is."""
    return shard.parent / "reports" / f"{shard.stem}.json"
