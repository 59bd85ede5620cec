"""Scenes of a raw data set as a source of samples, from one interface for all readers.

A reader is a frozen dataclass whose fields are options of its command (`windows.option`). Scenes are dealt to
shards by their sorted names, so any process may write any shard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from preparation.writing.jobs import SkippedScene
from scene4d.sample_format import SceneSample


class Reader(Protocol):
    """Reads one data set."""

    source: str
    terms: str

    def find_scenes(self, root: Path) -> list[Path]:
        """All scenes below a folder: what `read_scene` takes."""

    def read_scene(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Samples of a scene; their keys are unique within it, source and licence are filled in later."""


@dataclass(frozen=True)
class RawScenes:
    """Scenes of a raw data set as a source of samples.

    Attributes:
        reader: Of the data set.
        source: Its name, first word of its keys.
        root: Folder that scene names are relative to.
        captions: Text by scene name.
        license: Put into every sample.
    """

    reader: Any
    source: str
    root: Path
    captions: dict[str, str]
    license: str

    def options(self) -> dict:
        """The reader's."""
        return asdict(self.reader)

    def name(self, scene: Path) -> str:
        """Path below the root."""
        return scene_name(scene, self.root)

    def read(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Samples of a scene with source, caption, group and licence."""
        for sample in self.reader.read_scene(scene):
            skipped = isinstance(sample, SkippedScene)
            yield sample if skipped else self._completed(self.name(scene), sample)

    def _completed(self, name: str, sample: SceneSample) -> SceneSample:
        group = sample.group or name
        caption = self.captions.get(group, self.captions.get(name, sample.caption))
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")
        key = f"{self.source}-{stem}-{sample.key}"
        return replace(
            sample, key=key, source=self.source, caption=caption, group=group, license=self.license
        )


def scene_name(scene: Path, root: Path) -> str:
    """Name of a scene in reports, in captions and as content group: its path below the root."""
    if scene == root:
        return root.resolve().name
    name = scene.relative_to(root)
    return (name if scene.is_dir() else name.with_suffix("")).as_posix()
