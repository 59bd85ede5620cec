"""One interface for all readers, and the scenes of a raw data set as a source of samples.

A reader is a frozen dataclass whose fields are options of its command (`windows.option`). Scenes are dealt to
shards by their sorted names, so any process may write any shard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from preparation.writing.jobs import SkippedScene
from scene4d.sample_format import SceneSample


class Reader(Protocol):
    """Reads one data set.

    Attributes:
        source: Default name of the source.
        terms: Default licence of the samples.
    """

    source: ClassVar[str]
    terms: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field]]

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all scenes below a folder, each as `read_scene` takes it."""

    def read_scene(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Yields the samples of a scene with keys unique within it; source and licence are filled in later."""


@dataclass(frozen=True)
class RawScenes:
    """Scenes of a raw data set as a source of samples.

    Attributes:
        reader: Reads the data set.
        source: Name of the source, the first word of keys.
        root: Folder to which scene names are relative.
        captions: Captions by scene name.
        license: Licence of every sample.
    """

    reader: Reader
    source: str
    root: Path
    captions: dict[str, str]
    license: str

    def options(self) -> dict[str, object]:
        """Returns the options of the reader."""
        return asdict(self.reader)

    def name(self, scene: Path) -> str:
        """Returns the path of a scene below the root."""
        return scene_name(scene, self.root)

    def read(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Yields the samples of a scene with source, caption, group and licence."""
        for sample in self.reader.read_scene(scene):
            yield sample if isinstance(sample, SkippedScene) else self._completed(self.name(scene), sample)

    def _completed(self, name: str, sample: SceneSample) -> SceneSample:
        group = sample.group or name
        caption = self.captions.get(group, self.captions.get(name, sample.caption))
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")
        key = f"{self.source}-{stem}-{sample.key}"
        return replace(
            sample, key=key, source=self.source, caption=caption, group=group, license=self.license
        )


def scene_name(scene: Path, root: Path) -> str:
    """Returns the name of a scene in reports, in captions and as content group: its path below the root."""
    if scene == root:
        return root.resolve().name
    name = scene.relative_to(root)
    return (name if scene.is_dir() else name.with_suffix("")).as_posix()
