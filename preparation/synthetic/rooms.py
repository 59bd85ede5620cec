"""Animated units in textured rooms, seen by cameras on a wide arc: for reconstruction.

    python -m preparation.rooms --root /usr/share/games/megaglest \\
        --textures tilesets/*/textures --output data/small --scenes 800 --split train

Views 9 to 13 degrees apart differ enough that copying a neighbour is a poor answer, texture everywhere
makes views matchable, and the closed room gives every pixel a depth. Units and textures of the held-out split
are never trained on. `--root` is any folder that holds megaglest's techs/; `--glb` names folders of animated GLB
files, beside it or in its place. MegaGlest's models and textures come with the Debian package megaglest-data
(CC-BY-SA-3.0). Scene k of a split depends only on the seed, the split and k.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic import command
from preparation.synthetic.command import SceneSet
from preparation.synthetic.content import moving_assets
from preparation.synthetic.moving_asset import MovingAsset
from preparation.synthetic.object_scenes import DEPTH_LEVELS
from preparation.synthetic.stage import (
    SIZE,
    RejectedScene,
    phrase,
    random_cameras,
    random_lamps,
    reject_near_objects,
    render_clip,
)
from preparation.synthetic.static import room
from preparation.synthetic.surfaces import random_surface, texture_files
from scene4d.sample_format import SceneSample

SOURCE = "rooms"
FRAMES = 9
DEPTH_FRAMES = list(range(0, FRAMES, 2))
FPS = 6.0
ARC = (65.0, 85.0)  # degrees from the first view to the last
DISTANCE = (2.4, 3.0)  # scene units
FIELD_OF_VIEW = (36.0, 44.0)  # degrees
HEIGHTS = (0.5, 1.0)  # height of the units, scene units
LARGEST = 1.3  # largest side of a unit on the floor, scene units
STAGE_RADIUS = 0.9
NEAREST = 0.6
TEXELS = 1.5  # for each pixel of the image; coarse: texture finer than a pixel only flickers


@dataclass(frozen=True)
class RoomAssets:
    """Everything that the scenes of one split may show.

    Attributes:
        clips: Animated units.
        textures: Image files of floors, walls and ceilings.
        texture_license: SPDX identifier and attribution of the textures.
        size: Height and width of the images, pixels.
    """

    clips: tuple[MovingAsset, ...]
    textures: tuple[Path, ...]
    texture_license: str
    size: int = SIZE

    def names(self) -> list[str]:
        """Returns the names of all clips and textures, and the licence."""
        return [
            *(clip.key for clip in self.clips),
            *(path.name for path in self.textures),
            self.texture_license,
        ]


def make_scene(assets: RoomAssets, rng: np.random.Generator, key: str) -> SceneSample:
    """Draws and renders one scene.

    Raises:
        RejectedScene: The units do not fit side by side or hide a camera, or the room is open.
    """
    units = sorted({clip.unit for clip in assets.clips})
    chosen = [
        units[k] for k in rng.choice(len(units), min(len(units), int(rng.integers(2, 5))), replace=False)
    ]
    clips = [_one_clip(assets.clips, unit, rng) for unit in chosen]
    lamps = random_lamps(rng)
    texels = round(TEXELS * assets.size)
    floor, side, ceiling = (random_surface(list(assets.textures), rng, texels, tiles) for tiles in (6, 6, 4))
    still = room((floor, side, ceiling), rng, lamps)
    moving = place_units(clips, rng)
    target = (*rng.uniform(-0.2, 0.2, 2).tolist(), float(rng.uniform(0.25, 0.45)))
    c2w, intrinsics = random_cameras(rng, target, DISTANCE, ARC, FIELD_OF_VIEW, assets.size)
    for frame in (0, FRAMES // 2, FRAMES - 1):
        reject_near_objects(moving[frame], c2w, intrinsics, NEAREST, assets.size)
    images, depths = render_clip(still, moving, c2w, intrinsics, assets.size)
    depths = depths[:, DEPTH_FRAMES]
    if (depths == 0).any():
        raise RejectedScene("the room is not closed around a camera")
    level = depths.max() / DEPTH_LEVELS
    pictures = sorted({surface.name for surface in (floor, side, ceiling)} - {"noise"})
    textures = f"; textures {', '.join(pictures)}: {assets.texture_license}" if pictures else ""
    return SceneSample(
        key=key, source=SOURCE, fps=FPS, c2w=c2w, intrinsics=intrinsics,
        images=images,
        depths=np.round(depths / level) * level, depth_frames=DEPTH_FRAMES,
        caption=f"{phrase([clip.label for clip in clips])} in a room with a {floor.label} floor",
        group="+".join(sorted({clip.group for clip in clips})),
        license="; ".join(sorted({clip.license for clip in clips})) + textures,
    )  # fmt: skip


def place_units(clips: Sequence[MovingAsset], rng: np.random.Generator) -> list[list[Mesh]]:
    """Poses the meshes of all units at every frame: scaled, turned at random, on the floor and apart.

    Raises:
        RejectedScene: There is no free place.
    """
    frames: list[list[Mesh]] = [[] for _ in range(FRAMES)]
    taken: list[tuple[ndarray, float]] = []
    for clip in clips:
        posed = clip.meshes(clip.times(rng, FRAMES, FPS))
        low, high = _bounds(posed)
        extents = high - low
        scale = min(rng.uniform(*HEIGHTS) / extents[2], LARGEST / extents[:2].max())
        place = _free_place(taken, float(np.hypot(*extents[:2])) * scale / 2, rng)
        turn = rng.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        foot = np.array([*(low + high)[:2] / 2, low[2]])
        for frame, meshes in zip(frames, posed):
            for mesh in meshes:
                mesh.vertices = ((mesh.vertices - foot) * scale @ rotation.T + [*place, 0]).astype(np.float32)
            frame += meshes
    return frames


def _one_clip(clips: Sequence[MovingAsset], unit: str, rng: np.random.Generator) -> MovingAsset:
    candidates = [clip for clip in clips if clip.unit == unit]
    return candidates[rng.integers(len(candidates))]


def _bounds(frames: Sequence[Sequence[Mesh]]) -> tuple[Float32[ndarray, "3"], Float32[ndarray, "3"]]:
    vertices = np.concatenate([mesh.vertices for meshes in frames for mesh in meshes])
    return vertices.min(0), vertices.max(0)


def _free_place(taken: list[tuple[ndarray, float]], radius: float, rng: np.random.Generator) -> ndarray:
    """Draws a place whose circle overlaps others by at most a fifth, and adds it to `taken`."""
    for _ in range(40):
        place = rng.uniform(-STAGE_RADIUS, STAGE_RADIUS, 2)
        if all(np.linalg.norm(place - other) > 0.8 * (radius + size) for other, size in taken):
            taken.append((place, radius))
            return place
    raise RejectedScene(f"no free place for unit {len(taken) + 1}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the top of this file is its help."""
    command.run(SOURCE, __doc__, _open, arguments)


def _open(options: argparse.Namespace) -> SceneSet[RoomAssets]:
    clips = moving_assets(options)
    textures = tuple(texture_files(options.textures, options.split))
    assets = RoomAssets(clips, textures, options.texture_license, options.size)
    return SceneSet(SOURCE, options.split, options.seed, assets, make_scene)
