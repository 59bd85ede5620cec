"""Finds the animated clips of MegaGlest, joins those that share content, and holds some out.

Factions reuse each other's models and textures, so a split by unit would show held-out content in training.
Clips are therefore joined into content groups: everything that shares a unit, a unit name, a texture file
name, or a file name with the same numbers of key frames and vertices. A group lies on one side of the split.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic.g3d import G3DMesh
from preparation.synthetic.g3d_poses import clip_meshes, drawable_meshes, key_frame_times
from scene4d.folders import is_hidden

logger = logging.getLogger(__name__)

LICENSE = (
    "CC-BY-SA-3.0, models from MegaGlest data, (c) The Glest Team, The MegaGlest Team and faction authors"
)
MIN_KEY_FRAMES = 5
MIN_MOTION = 0.03  # share of the radius
HELD_OUT_EVERY = 4

ACTIONS = {
    "walk": "walking", "attack": "attacking", "air": "attacking", "dying": "dying", "die": "dying",
    "stand": "standing", "idle": "idling", "charg": "charging", "wood": "chopping wood", "mining": "mining",
    "gold": "mining gold", "stone": "mining stone", "loaded": "carrying a load", "repair": "repairing",
    "heal": "healing", "morph": "morphing", "harvest": "harvesting", "fly": "flying", "upgrad": "upgrading",
    "produc": "producing", "construct": "under construction", "destr": "collapsing", "build": "building",
}  # fmt: skip
ONE_WAY = ("dying", "under construction", "collapsing", "morphing")


@dataclass(frozen=True)
class Clip:
    """One animation of one unit.

    Attributes:
        path: The G3D file.
        unit: `faction/unit`.
        action: English present participle.
        key_frames: Number of key frames.
        vertex_count: Number of vertices of all meshes.
        textures: Lower-case names of the colour textures.
        group: Name of the content group; empty before `assign_groups`.
    """

    path: Path
    unit: str
    action: str
    key_frames: int
    vertex_count: int
    textures: tuple[str, ...]
    group: str = ""

    @property
    def name(self) -> str:
        """Name of the unit without its faction."""
        return self.unit.split("/")[-1]

    @property
    def key(self) -> str:
        """A name that no other clip has."""
        return f"{self.unit}/{self.path.name}"

    @property
    def label(self) -> str:
        """Name of the unit in words."""
        return re.sub(r"[_\d]+", " ", self.name).strip()

    @property
    def license(self) -> str:
        """SPDX name and attribution."""
        return LICENSE

    @property
    def loops(self) -> bool:
        """Whether the last key frame leads back to the first."""
        return self.action not in ONE_WAY

    @property
    def caption(self) -> str:
        """A caption such as "a golem attacking"."""
        return f"{'an' if self.label[0] in 'aeiou' else 'a'} {self.label} {self.action}"

    def times(self, rng: np.random.Generator, frames: int, fps: float) -> Float[ndarray, "t"]:
        """Draws instants in units of key frames, whose pace is not known: `fps` does not count."""
        return key_frame_times(self.key_frames, self.loops, rng, frames)

    def meshes(self, times: Float[ndarray, "t"]) -> list[list[Mesh]]:
        """Poses and lights the unit at every instant, in the units of the file, with z up."""
        return clip_meshes(self.path, times, self.loops)


def find_clips(root: Path) -> list[Clip]:
    """Finds all usable animations below `root`, sorted by path; logs every unusable one with its reason.

    Raises:
        ValueError: There is no usable animation.
    """
    clips = []
    reasons: dict[str, int] = defaultdict(int)
    for path in sorted(root.glob("**/factions/*/units/*/models/*.g3d")):
        if is_hidden(path, root):
            continue
        try:
            clips.append(_read_clip(path))
        except ValueError as error:
            reasons[str(error).split(":")[0]] += 1
            logger.debug("skipped %s: %s", path, error)
    if not clips:
        raise ValueError(f"no animated units below {root}; expected .../factions/*/units/*/models/*.g3d")
    logger.info(
        "%d usable clips of %d units; skipped: %s", len(clips), len({c.unit for c in clips}), dict(reasons)
    )
    return clips


def assign_groups(clips: list[Clip]) -> dict[str, list[Clip]]:
    """Joins clips that share content; returns the clips by group, groups from large to small.

    A group is named after the first of its units.
    """
    parts = connected([_content_keys(clip) for clip in clips])
    groups = [[clips[i] for i in part] for part in parts]
    groups.sort(key=lambda part: (-len(part), part[0].path))
    named = {}
    for part in groups:
        name = min(clip.unit for clip in part)
        named[name] = [replace(clip, group=name) for clip in part]
    return named


def split_groups(groups: dict[str, list[Clip]], split: str) -> list[Clip]:
    """Returns the clips of `train` or `val`: every fourth group is held out, never the largest.

    Raises:
        ValueError: The split has another name, or no clips.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    held_out = split == "val"
    chosen = [
        clip
        for index, part in enumerate(groups.values())
        if (index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out
        for clip in part
    ]
    if not chosen:
        raise ValueError(f"{len(groups)} content groups leave no clips for split {split!r}")
    return chosen


def connected(keys: list[Iterable[Hashable]]) -> list[list[int]]:
    """Groups items that share a key, directly or through others (union-find).

    Args:
        keys: The keys of every item.

    Returns:
        The item indices of every group, ascending; groups come in the order of their first item.
    """
    parent = list(range(len(keys)))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    owner: dict[Hashable, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            parent[find(item)] = find(owner.setdefault(key, item))
    parts: dict[int, list[int]] = defaultdict(list)
    for item in range(len(keys)):
        parts[find(item)].append(item)
    return list(parts.values())


def key_frame_positions(meshes: list[G3DMesh], key_frames: int) -> Float32[ndarray, "k n 3"]:
    """Joins the vertices of all meshes; meshes with a single key frame stand still."""
    return np.concatenate(
        [np.broadcast_to(m.vertices, (key_frames, *m.vertices.shape[1:])) for m in meshes], axis=1
    )


def _read_clip(path: Path) -> Clip:
    """Raises ValueError `reason: details` when the clip cannot be used."""
    try:
        meshes = drawable_meshes(path)
    except ValueError as error:
        raise ValueError(f"unreadable: {error}") from error
    frame_counts = {mesh.vertices.shape[0] for mesh in meshes}
    key_frames = max(frame_counts, default=0)
    if key_frames < MIN_KEY_FRAMES:
        raise ValueError(f"not animated: {key_frames} key frames")
    if frame_counts - {1, key_frames}:
        raise ValueError(f"meshes disagree on key frames: {sorted(frame_counts)}")
    textures = sorted({mesh.texture for mesh in meshes if mesh.texture})
    missing = [name for name in textures if not (path.parent / name).exists()]
    if missing:
        raise ValueError(f"missing texture: {missing}")
    positions = key_frame_positions(meshes, key_frames)
    if not np.isfinite(positions).all():
        raise ValueError("not finite: a vertex")
    radius = np.linalg.norm(np.ptp(positions[0], axis=0)) / 2
    motion = np.linalg.norm(positions - positions[:1], axis=-1).mean(1).max()
    if not motion > MIN_MOTION * radius:
        raise ValueError(f"hardly moves: {motion / max(radius, 1e-9):.3f} of its radius")
    parts = path.parts
    return Clip(
        path=path,
        unit=f"{parts[-5]}/{parts[-3]}",
        action=_action(path.stem, parts[-3]),
        key_frames=key_frames,
        vertex_count=positions.shape[1],
        textures=tuple(name.lower() for name in textures),
    )


def _action(stem: str, unit: str) -> str:
    """Reads the action off a file name such as `golem_attacking`, unit names aside."""
    words = stem.lower().split("_")
    words.sort(key=lambda word: word not in unit.lower().split("_"))  # words of the unit's name count least
    found = [
        action for word in reversed(words) for prefix, action in ACTIONS.items() if word.startswith(prefix)
    ]
    return found[0] if found else "moving"


def _content_keys(clip: Clip) -> list[Hashable]:
    return [
        ("unit", clip.unit),
        ("name", clip.name),
        ("file", clip.path.name, clip.key_frames, clip.vertex_count),
        *(("texture", texture) for texture in clip.textures),
    ]
