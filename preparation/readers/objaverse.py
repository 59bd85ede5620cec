"""Animated Objaverse assets, rendered with Blender on white by cameras on an arc, with depth.

    python -m preparation.objaverse --root glbs --output data/objaverse --shard-size 20

`--root` holds `*.glb` files, as Objaverse's `glbs/<shard>/<uid>.glb`. Their default scene is shown. The name of a
file decides with which of its animations; whatever that one has no key for is at rest. Cameras and depth are given in
units of the largest side of the box around all that moves, centred on it; z is up. Files without animation, or that
hardly move, are skipped. The command needs the package bpy.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from preparation.readers.posed_views import PosedView, assemble
from preparation.readers.windows import option
from scene4d.folders import listed_below
from scene4d.sample_format import SceneSample

FIELD_OF_VIEW = 40.0  # degrees
ELEVATIONS = (5.0, 30.0)  # degrees above the horizon
PROBES = 5  # instants at which the box and the motion are measured
LEAST_MOTION = 0.02  # share of the box; a file that moves less is skipped
MARGIN = 1.05


@dataclass(frozen=True)
class Objaverse:
    """Renders one asset.

    Attributes:
        size: Height and width of a view in pixels.
        views: Number of cameras on the arc.
        arc: Angle from the first camera to the last, degrees.
        frames: Frames of the clip.
        fps: Frames per second of the clip; a shorter animation is slowed down to fill it.
        engine: Render engine of Blender.
        samples: Samples per pixel of Cycles.
    """

    source: ClassVar[str] = "objaverse"
    terms: ClassVar[str] = "see the licence of each asset in Objaverse's metadata"
    size: tuple[int, int] = option((256, 256), "height x width, or one number, of a view in pixels")
    views: int = option(8, "cameras on the arc")
    arc: float = option(90.0, "degrees from the first camera to the last")
    frames: int = option(29, "frames of the clip; 4k + 1 suits the autoencoders")
    fps: float = option(12.0, "frames per second; shorter animations are slowed down to fill the clip")
    engine: str = option("CYCLES", "CYCLES or BLENDER_WORKBENCH (fast, no shadows)")
    samples: int = option(32, "samples per pixel of Cycles")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all assets.

        Raises:
            ImportError: bpy is not installed.
        """
        _blender()
        return listed_below(root, [".glb"])

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields one sample.

        Raises:
            ValueError: The file cannot be imported, has no animation or mesh, or hardly moves.
        """
        stage, rng = _blender(), np.random.default_rng(zlib.crc32(scene.stem.encode()))
        clips = stage.load(scene)
        clip = clips[rng.integers(len(clips))]
        stage.play(clip)
        centre, extent, radius = _measure(stage, np.linspace(clip.start, clip.end, PROBES))
        stage.set_up(self.size, np.radians(FIELD_OF_VIEW), extent, self.engine, self.samples)
        step = min(stage.FPS / self.fps, (clip.end - clip.start) / max(self.frames - 1, 1))
        times = clip.start + step * np.arange(self.frames)
        poses = _arc(self.views, np.radians(self.arc), self._distance(radius), rng)
        views = [self._view(stage, pose, centre, extent, times) for pose in poses]
        yield assemble(f"{clips.index(clip):03d}", views, range(self.frames), self.size, self.fps)

    def _distance(self, radius: float) -> float:
        """Returns the distance at which a ball fits into the narrower field of view."""
        half = np.radians(FIELD_OF_VIEW) / 2
        narrow = min(half, np.arctan(np.tan(half) * self.size[0] / self.size[1]))
        return MARGIN * radius / float(np.sin(narrow))

    def _view(
        self, stage: ModuleType, c2w: Float[ndarray, "4 4"], centre: ndarray, extent: float, times: ndarray
    ) -> PosedView:
        """Renders a whole video; `c2w` is in units of `extent` around `centre`."""
        placed = c2w.copy()
        placed[:3, 3] = centre + extent * c2w[:3, 3]
        images, depths = zip(*(stage.render(placed, time) for time in times))
        focal = 0.5 / np.tan(np.radians(FIELD_OF_VIEW) / 2)
        aspect = self.size[1] / self.size[0]
        intrinsics = np.array([[focal, 0, 0.5], [0, focal * aspect, 0.5], [0, 0, 1]])
        return PosedView(
            "camera", c2w, intrinsics, lambda ks: [Image.fromarray(images[k]) for k in ks],
            lambda ks: [depths[k] / np.float32(extent) for k in ks],
        )  # fmt: skip


def _measure(stage: ModuleType, times: Float[ndarray, " n"]) -> tuple[Float[ndarray, "3"], float, float]:
    """Returns centre, largest side and (in units of it) half diagonal of the box around all that moves."""
    posed = np.stack([stage.vertices(time) for time in times])
    low, high = posed.min((0, 1)), posed.max((0, 1))
    extent = float((high - low).max())
    motion = float(np.linalg.norm(posed - posed[:1], axis=-1).max())
    if not np.isfinite(extent) or extent <= 0 or motion < LEAST_MOTION * extent:
        raise ValueError(f"hardly moves: {motion:.3g} of {extent:.3g} units")
    return (low + high) / 2, extent, float(np.linalg.norm(high - low)) / 2 / extent


def _arc(count: int, angle: float, distance: float, rng: np.random.Generator) -> list[Float[ndarray, "4 4"]]:
    """Places OpenCV cameras around the origin at one height, looking at it; z is up."""
    start, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(*ELEVATIONS))
    poses = []
    for azimuth in start + np.linspace(0, angle, count):
        level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        place = distance * (np.cos(elevation) * level + np.array([0, 0, np.sin(elevation)]))
        forward = -place / distance
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, place], axis=1)
        poses.append(pose)
    return poses


def _blender() -> ModuleType:
    try:
        from preparation.rendering import blender_stage
    except ImportError as error:
        raise ImportError("rendering GLB files needs bpy: pip install 'scene4d[objaverse]'") from error
    return blender_stage
