"""Finds GLB files, joins those that share content, and holds some out.

Files share content when they have triangles in common (colour variants of one model), a motion (characters of one
rig), or a name but for its number (`Tree_1`, `Tree_2`). Every source that shows them splits them the same
way: all files of a folder form one set of groups, animated or not.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy import ndarray

from preparation.rendering.gltf_file import Animation, GltfFile
from preparation.rendering.gltf_model import GltfModel
from preparation.rendering.gltf_pose import read_channels
from preparation.synthetic.content_split import content_groups, family, select_split
from preparation.synthetic.models import MOST_FACES, Model, largest_side, thin_hull
from scene4d.folders import listed_below

logger = logging.getLogger(__name__)

SHORTEST = 0.1  # seconds; a shorter animation is a pose


@dataclass(frozen=True)
class GlbAsset:
    """One GLB file.

    Attributes:
        name: `folder/file`, without suffix; unique.
        path: The file.
        license: SPDX name and author.
        animations: Its animations that last.
        traits: What it may share with other files.
        group: Name of the content group; empty before `glbs_of_split`.
    """

    name: str
    path: Path
    license: str
    animations: tuple[Animation, ...]
    traits: frozenset[str]
    group: str = ""

    @property
    def label(self) -> str:
        """The file's name in words: `BlueFish_2` -> `blue fish`."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-\s\d.]+", " ", self.path.stem.removesuffix("-transformed"))
        return spaced.strip().lower() or "thing"

    @property
    def attribution(self) -> str:
        """A line that names file, licence and author."""
        return f"{self.label} ({self.name}), {self.license}"

    def load(self) -> Model:
        """Reads the file at rest.

        Raises:
            ValueError: It cannot be read, is flat, or has too many faces; names it.
        """
        (parts,) = open_glb(self.path).posed(None, np.zeros(1))
        corners = np.concatenate([part.vertices[part.faces.ravel()] for part in parts])
        if len(corners) > 3 * MOST_FACES:
            raise ValueError(f"{self.name} has more than {MOST_FACES} faces")
        low, high = corners.min(0), corners.max(0)
        size = largest_side(self.name, high - low)
        centre = (low + high) / 2
        moved = tuple(replace(part, vertices=(part.vertices - centre) / size) for part in parts)
        return Model(self, moved, (high - low) / size, thin_hull((corners - centre) / size))


@lru_cache(maxsize=64)
def open_glb(path: Path) -> GltfModel:
    """Reads a file, and remembers it."""
    return GltfModel(GltfFile(path))


def find_glbs(folders: Sequence[Path], licenses: Sequence[str]) -> list[GlbAsset]:
    """Reads all GLB files below some folders; logs each that cannot be used, in one line.

    Args:
        folders: Where to look.
        licenses: SPDX name and author: one for all folders, or one for each.

    Raises:
        ValueError: Their numbers do not fit, a folder does not exist, or there is no usable file.
    """
    if len(licenses) not in (1, len(folders)):
        raise ValueError(f"{len(folders)} GLB folders need 1 or {len(folders)} licences, got {len(licenses)}")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--glb {str(folder)!r} is no folder; expected a folder of GLB files")
    found: dict[str, GlbAsset] = {}
    for folder, terms in zip(folders, licenses if len(licenses) > 1 else [*licenses] * len(folders)):
        for path in listed_below(folder, [".glb"]):
            name = f"{folder.resolve().name}/{path.relative_to(folder).with_suffix('').as_posix()}"
            try:
                found[name] = _read(name, path, terms)
            except Exception as error:  # whatever is wrong with one file, the others go on
                named = str(error) if isinstance(error, ValueError) else f"{path}: {error!r}"
                logger.warning("left out: %s", " ".join(named.split()))
    if not found:
        raise ValueError(f"no usable GLB file below {', '.join(str(folder) for folder in folders)}")
    return sorted(found.values(), key=lambda asset: asset.name)


def glbs_of_split(assets: Sequence[GlbAsset], split: str) -> list[GlbAsset]:
    """Returns the files of one split; groups with an animated file are drawn apart from the others."""
    groups = content_groups({asset.name: asset.traits for asset in assets})
    by_name = {asset.name: replace(asset, group=groups[asset.name]) for asset in assets}
    lively = {asset.group for asset in by_name.values() if asset.animations}
    chosen: list[str] = []
    for alive in (True, False):
        own = {name: group for name, group in groups.items() if (group in lively) == alive}
        chosen += select_split(own, split) if own else []
    return [by_name[name] for name in sorted(chosen)]


def _read(name: str, path: Path, terms: str) -> GlbAsset:
    file = GltfFile(path)
    model = GltfModel(file)
    animations = tuple(clip for clip in file.animations() if clip.end - clip.start > SHORTEST)
    (parts,) = model.posed(None, np.zeros(1))
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise ValueError(f"{path}: a vertex is not finite")
    traits = {family(path.stem.lower()), *_shapes(model), *_motions(model, animations)}
    return GlbAsset(name, path, terms, animations, frozenset(traits))


def _shapes(model: GltfModel) -> set[str]:
    """Names the triangles of every material by their corners, to a hundredth of a percent of their extent."""
    return {_digest(primitive.vertices) for primitive in model.primitives}


def _motions(model: GltfModel, animations: Sequence[Animation]) -> set[str]:
    """Names motions in three ways, since copies for another rig differ in their numbers.

    These are the rotations, name and duration with the nodes that move, and name and duration within one folder.
    """
    nodes, found = model.file.document["nodes"], set[str]()
    for animation in animations:
        channels = read_channels(model.arrays, animation.index)
        turns = [channel.values for channel in channels if channel.path == "rotation"]
        if turns:
            found.add(_digest(np.concatenate([turn.ravel() for turn in turns])[:, None]))
        moved = sorted({str(nodes[channel.node].get("name")) for channel in channels})
        words = f"{animation.name.split('|')[-1]} {animation.end - animation.start:.2f}"
        found |= {
            f"{words} {hashlib.sha1(str(moved).encode()).hexdigest()}",
            f"{words} {model.file.path.parent}",
        }
    return found


def _digest(values: ndarray) -> str:
    size = max(float(np.ptp(values, axis=0).max()), 1e-9)
    rounded = np.round((values - values.min(0)) / size * 1e4).astype(np.int32)
    return hashlib.sha1(rounded.tobytes()).hexdigest()
