"""Shards of a raw data set's scenes, each with a report, from one interface for all readers.

A reader is a frozen dataclass whose fields are options of its command (`windows.option`). Scenes are dealt to
shards by their sorted names, so any process may write any shard.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from datamodules.preparation.captions import embed_captions
from datamodules.preparation.reports import skip, write_reported
from scene4d.sample_format import SceneSample, encode_sample


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
    """Writes one shard and its report and returns the report."""
    skipped = dict[str, str]()
    samples = (encode_sample(sample, job.crf) for sample in _samples(job, skipped))
    return write_reported(job, samples, skipped)


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
                    skip(skipped, f"{name}: {sample.name}", sample.reason)
                else:
                    yield _completed(job, name, sample)
        except Exception as error:  # whatever is wrong with one scene, the others go on
            skip(skipped, name, error)


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
