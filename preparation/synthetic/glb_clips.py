"""Animations of GLB files as clips: which instants are shown, and what they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.rendering.gltf_file import Animation
from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic.glb_assets import GlbAsset, open_glb
from preparation.synthetic.object_clips import ACTIONS

CLOSED = 0.02  # share of the extent; an animation whose ends are nearer to each other goes round
MORE_ACTIONS = {
    "swim": "swimming", "run": "running", "gallop": "galloping", "jump": "jumping", "hit": "being hit",
    "death": "dying", "dead": "dying", "eat": "eating", "danc": "dancing", "wav": "waving", "hello": "waving",
    "punch": "punching", "kick": "kicking", "shoot": "shooting", "sit": "sitting", "sneak": "sneaking",
    "dodge": "dodging", "block": "blocking", "bite": "biting", "spell": "casting a spell", "throw": "throwing",
    "cheer": "cheering", "lie": "lying down", "pickup": "picking something up", "interact": "reaching out",
    "bounc": "bouncing", "open": "opening", "clos": "closing", "turning": "turning",
    "duck": "ducking", "roll": "rolling", "yes": "nodding",
    "chop": "chopping", "slice": "slicing", "stab": "stabbing", "spin": "spinning", "reload": "reloading",
    "headbutt": "butting", "land": "landing", "out": "lying out of the water", "climb": "climbing",
}  # fmt: skip


@dataclass(frozen=True)
class GlbClip:
    """One animation of one GLB file.

    Attributes:
        asset: The file.
        animation: One of its animations.
    """

    asset: GlbAsset
    animation: Animation

    @property
    def key(self) -> str:
        """A name that no other clip has."""
        return f"{self.asset.name}/{self.animation.name}"

    @property
    def unit(self) -> str:
        """Name of the file."""
        return self.asset.name

    @property
    def label(self) -> str:
        """Name of the file in words."""
        return self.asset.label

    @property
    def caption(self) -> str:
        """A caption such as "a horse galloping"."""
        return f"{'an' if self.label[0] in 'aeiou' else 'a'} {self.label} {action(self.animation.name)}"

    @property
    def group(self) -> str:
        """Name of the content group."""
        return self.asset.group

    @property
    def license(self) -> str:
        """File, licence and author."""
        return self.asset.attribution

    def times(self, rng: np.random.Generator, frames: int, fps: float) -> Float[ndarray, "t"]:
        """Draws evenly spaced instants, never faster than in the file, in seconds.

        Animations that go round show half of themselves to all from any instant; their instants may exceed the end and
        are taken modulo. Others show at least 0.7 of themselves, if that is not too fast.
        """
        length = self.animation.end - self.animation.start
        least = 0.5 if self.loops else 0.7
        span = min(rng.uniform(least, 1) * length, (frames - 1) / fps)
        start = rng.uniform(0, length if self.loops else length - span)
        return self.animation.start + start + span * np.linspace(0, 1, frames)

    @property
    def loops(self) -> bool:
        """Whether the last pose is the first one."""
        first, last = self._vertices(np.array([self.animation.start, self.animation.end]))
        apart = np.linalg.norm(last - first, axis=1).max()
        return bool(apart < CLOSED * np.ptp(first, axis=0).max())

    def meshes(self, times: Float[ndarray, "t"]) -> list[list[Mesh]]:
        """Poses and lights the file at every instant, in its own units, with z up."""
        start, length = self.animation.start, self.animation.end - self.animation.start
        inside = start + (times - start) % length if times.max() > self.animation.end else times
        frames = open_glb(self.asset.path).posed(self.animation, inside)
        return [[mesh for part in parts for mesh in part.meshes()] for parts in frames]

    def _vertices(self, times: Float[ndarray, "t"]) -> list[Float[ndarray, "n 3"]]:
        frames = open_glb(self.asset.path).posed(self.animation, times)
        return [np.concatenate([part.vertices for part in parts]) for parts in frames]


def action(name: str) -> str:
    """Reads what happens off the name of an animation, the last word first: `Armature|Attack_Kick` -> `kicking`."""
    last = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.split("|")[-1]).lower()
    words = [word for word in re.split(r"[_\W\d]+", last) if word]
    known = MORE_ACTIONS | ACTIONS
    found = [text for word in words for start, text in known.items() if word.startswith(start)]
    return found[-1] if found else "moving"
