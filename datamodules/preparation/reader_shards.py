"""Shards of a raw data set's scenes, each with a report, from one interface for all readers.

A reader is a frozen dataclass whose fields are options of its command (`windows.option`). Scenes are dealt to
shards by their sorted names, so any process may write any shard. Beside every shard stands
`reports/SHARD.json`: its recipe, samples and what was skipped and why. A shard is finished when its report
exists; one in which every scene was skipped has a report but no tar file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from datamodules.preparation.captions import embed_captions
from datamodules.preparation.shards import write_shard
from scene4d.sample_format import SceneSample

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads one data set."""

    source: str
    terms: str

    def find_scenes(self, root: Path) -> list[Path]:
        """All scenes below a folder: what `read_scene` takes."""

    def read_scene(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Samples of a scene; their keys are unique within it, source and licence are filled in later."""


@dataclass(frozen=True)
class SkippedScene:
    """A scene inside a file with several that could not be used."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to write one shard.

    Attributes:
        reader: Of the data set.
        source: Name of the source, first word of its keys.
        root: Folder that scene names are relative to.
        path: Of the shard.
        scenes: In order.
        captions: Text by scene name.
        embed: Whether to embed the captions.
        license: Put into every sample.
        crf: H.264 constant rate factor.
    """

    reader: Any
    source: str
    root: Path
    path: Path
    scenes: list[Path]
    captions: dict[str, str]
    embed: bool
    license: str
    crf: int

    def recipe(self) -> dict:
        """What decides the shard's content, as JSON would give it back."""
        names = [scene_name(scene, self.root) for scene in self.scenes]
        return {
            "options": json.loads(json.dumps(asdict(self.reader))), "scenes": len(names),
            "names": zlib.crc32("\n".join(names).encode()), "embed": self.embed, "crf": self.crf,
        }  # fmt: skip


def make_shard(job: ShardJob) -> dict:
    """Writes one shard and its report, in this order, and returns the report."""
    started, skipped = time.monotonic(), dict[str, str]()
    samples = _samples(job, skipped)
    first = next(samples, None)
    count = 0
    if first is not None:
        count = write_shard(job.path, _chain(first, samples), job.crf)
    report = {
        "shard": job.path.name, "recipe": job.recipe(), "samples": count,
        "seconds": round(time.monotonic() - started, 3), "skipped": skipped,
    }  # fmt: skip
    write_json(report_path(job.path), report)
    return report


def scene_name(scene: Path, root: Path) -> str:
    """Name of a scene in reports, in captions and as content group: its path below the root."""
    if scene == root:
        return root.resolve().name
    name = scene.relative_to(root)
    return (name if scene.is_dir() else name.with_suffix("")).as_posix()


def _samples(job: ShardJob, skipped: dict[str, str]) -> Iterator[SceneSample]:
    """All samples that can be made; what cannot is named in `skipped` and in the log."""
    for scene in job.scenes:
        name = scene_name(scene, job.root)
        try:
            for sample in job.reader.read_scene(scene):
                if isinstance(sample, SkippedScene):
                    _skip(skipped, f"{name}: {sample.name}", sample.reason)
                else:
                    yield _completed(job, name, sample)
        except Exception as error:  # whatever is wrong with one scene, the others go on
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            _skip(skipped, name, reason)


def _completed(job: ShardJob, name: str, sample: SceneSample) -> SceneSample:
    group = sample.group or name
    caption = job.captions.get(group, job.captions.get(name, sample.caption))
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")
    return replace(
        sample,
        key=f"{job.source}-{stem}-{sample.key}",
        source=job.source,
        caption=caption,
        text=embed_captions([caption])[0] if job.embed else None,
        group=group,
        license=job.license,
    )


def _skip(skipped: dict[str, str], name: str, reason: str) -> None:
    skipped[name] = " ".join(reason.split())
    logger.warning("%s skipped: %s", name, skipped[name])


def _chain(first: SceneSample, rest: Iterator[SceneSample]) -> Iterator[SceneSample]:
    yield first
    yield from rest


def report_path(shard: Path) -> Path:
    """Where the report of a shard is."""
    return shard.parent / "reports" / f"{shard.stem}.json"


def write_json(path: Path, content: dict) -> None:
    """Writes a file whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)
