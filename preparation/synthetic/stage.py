"""Scenes drawn at random share this stage: cameras on an arc, lamps, the floor, walls, and rendering of all views."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from numpy.typing import ArrayLike

from preparation.rendering.mesh_renderer import Mesh, draw, light_factor, render
from preparation.synthetic.models import Model, StillAsset
from scene4d.geometry.trajectories import arc

logger = logging.getLogger(__name__)

VIEWS = 8
SIZE = 64
SUPERSAMPLE = 3


class RejectedScene(Exception):
    """A drawn scene is not worth rendering; the message says why."""


@dataclass(frozen=True)
class Assets:
    """Everything that the furniture scenes of one split may show.

    Attributes:
        models: Furniture, or other still things.
        textures: Image files of floors and walls.
        texture_license: SPDX identifier and attribution of the textures.
        size: Height and width of the images, pixels.
    """

    models: tuple[StillAsset, ...]
    textures: tuple[Path, ...]
    texture_license: str
    size: int = SIZE

    def names(self) -> list[str]:
        """Returns the names of all models and textures, and the licence."""
        models = (entry.name for entry in self.models)
        return [*models, *(path.name for path in self.textures), self.texture_license]


def random_models(assets: Assets, rng: np.random.Generator, count: int) -> list[Model]:
    """Draws different models, passing over those that cannot be used.

    Raises:
        RejectedScene: Fewer than `count` models can be used.
    """
    order = rng.permutation(len(assets.models))
    usable = (model for k in order if (model := _load_or_none(assets.models[k])) is not None)
    models = list(islice(usable, count))
    if len(models) < count:
        raise RejectedScene(f"only {len(models)} of {len(assets.models)} models can be used")
    return models


@lru_cache(maxsize=1000)
def _load_or_none(entry: StillAsset) -> Model | None:
    """Remembers refusals too, so that each is read and logged once."""
    try:
        return entry.load()
    except ValueError as error:
        logger.info("model left out: %s", error)
        return None


def random_cameras(
    rng: np.random.Generator,
    target: tuple[float, float, float],
    distance: tuple[float, float],
    total_angle: tuple[float, float] = (35, 45),
    field_of_view: tuple[float, float] = (44, 54),
    size: int = SIZE,
) -> tuple[Float32[ndarray, "v 4 4"], Float32[ndarray, "v 3 3"]]:
    """Draws `VIEWS` cameras on an arc around `target`, at an elevation of 12 to 40 degrees, and their intrinsics.

    Args:
        rng: Decides everything.
        target: Point that all cameras look at.
        distance: Range of the distance, scene units.
        total_angle: Range of the angle between the first and the last camera, degrees.
        field_of_view: Range of the whole angle of view, degrees.
        size: Height and width of the images, pixels.
    """
    elevation = rng.uniform(12, 40)
    change = float(np.clip(elevation + rng.uniform(-6, 6), 12, 40)) - elevation
    total = rng.uniform(*total_angle) * rng.choice([-1, 1])
    c2w = arc(VIEWS, rng.uniform(0, 360), total, elevation, change, rng.uniform(*distance), target)
    focal = size / 2 / np.tan(np.radians(rng.uniform(*field_of_view)) / 2)
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
    return c2w.numpy().astype(np.float32), np.repeat(intrinsics[None], VIEWS, 0)


def random_lamps(rng: np.random.Generator) -> tuple[Float32[ndarray, "3 3"], Float32[ndarray, "3"]]:
    """Draws three directional lamps from above: directions and strengths."""
    directions = rng.standard_normal((3, 3))
    directions[:, 2] = np.abs(directions[:, 2]) + 0.4
    return directions.astype(np.float32), rng.uniform(0.1, 0.42, 3).astype(np.float32)


def disc(radius: float, texture: UInt8[ndarray, "s s 3"], lamps: tuple[ndarray, ndarray]) -> Mesh:
    """Builds a round floor at z = 0 that shows the texture once."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    rim = np.stack([np.cos(angle), np.sin(angle), np.zeros(48)], 1)
    vertices = np.concatenate([np.zeros((1, 3)), rim]).astype(np.float32)
    index = np.arange(48)
    faces = np.stack([np.zeros(48), 1 + index, 1 + (index + 1) % 48], 1).astype(np.int32)
    shade = light_factor(np.tile(np.array([[0, 0, 1]], np.float32), (49, 1)), *lamps)
    return Mesh(vertices * np.float32(radius), faces, shade, vertices[:, :2] / 2 + 0.5, texture)


def wall(
    corner: ArrayLike,
    first_edge: ArrayLike,
    second_edge: ArrayLike,
    texture: UInt8[ndarray, "s s 3"],
    lamps: tuple[ndarray, ndarray],
) -> Mesh:
    """Builds a parallelogram that shows the texture once, lit on the side of `first_edge` x `second_edge`."""
    a, u, v = (np.asarray(x, np.float32) for x in (corner, first_edge, second_edge))
    normal = np.cross(u, v)[None].repeat(4, 0)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh(np.stack([a, a + u, a + u + v, a + v]), faces, light_factor(normal, *lamps), uv, texture)


def render_views(
    meshes: Sequence[Mesh],
    c2w: Float32[ndarray, "v 4 4"],
    intrinsics: Float32[ndarray, "v 3 3"],
    size: int = SIZE,
) -> tuple[UInt8[ndarray, "v h w 3"], Float32[ndarray, "v h w"]]:
    """Renders colour and planar z for every camera."""
    pairs = [render(meshes, pose, k, size, size, SUPERSAMPLE) for pose, k in zip(c2w, intrinsics)]
    return np.stack([image for image, _ in pairs]), np.stack([depth for _, depth in pairs])


def render_clip(
    still: Sequence[Mesh],
    moving: Sequence[Sequence[Mesh]],
    c2w: Float32[ndarray, "v 4 4"],
    intrinsics: Float32[ndarray, "v 3 3"],
    size: int = SIZE,
) -> tuple[UInt8[ndarray, "v t h w 3"], Float32[ndarray, "v t h w"]]:
    """Renders colour and planar z for every camera and frame; still meshes are drawn once per camera.

    Args:
        still: Meshes that all frames share.
        moving: The other meshes of every frame.
        c2w: Camera-to-world matrices.
        intrinsics: Intrinsics of every camera.
        size: Height and width of the images, pixels.
    """
    images = np.empty((len(c2w), len(moving), size, size, 3), np.uint8)
    depths = np.empty((len(c2w), len(moving), size, size), np.float32)
    for view, (pose, k) in enumerate(zip(c2w, intrinsics)):
        stage = draw(still, pose, k, size, size, SUPERSAMPLE)
        for frame, meshes in enumerate(moving):
            canvas = draw(meshes, pose, k, size, size, SUPERSAMPLE, onto=stage.copy())
            images[view, frame], depths[view, frame] = canvas.resolve()
    return images, depths


def reject_near_objects(
    meshes: Sequence[Mesh],
    c2w: Float32[ndarray, "v 4 4"],
    intrinsics: Float32[ndarray, "v 3 3"],
    nearest: float,
    size: int = SIZE,
) -> None:
    """Looks at coarse depth of the first, middle and last camera, before all views are rendered.

    Raises:
        RejectedScene: More than 2% of an image are nearer than `nearest` scene units.
    """
    small = SIZE // 2
    coarse = np.diag([small / size, small / size, 1]).astype(np.float32)
    for view in sorted({0, len(c2w) // 2, len(c2w) - 1}):
        _, depth = render(meshes, c2w[view], coarse @ intrinsics[view], small, small, 1)
        share = float(((depth > 0) & (depth < nearest)).mean())
        if share > 0.02:
            raise RejectedScene(f"{share:.0%} of view {view} are nearer than {nearest} units")


def phrase(labels: Sequence[str]) -> str:
    """Turns `["chair", "lamp", "armchair"]` into `a chair, a lamp and an armchair`."""
    nouns = [f"{'an' if label[0] in 'aeiou' else 'a'} {label}" for label in labels]
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def attribution(models: Sequence[Model], assets: Assets, surfaces: Sequence[str]) -> str:
    """Returns the licence line of a scene; noise needs none."""
    lines = [model.entry.attribution for model in models]
    pictures = [name for name in surfaces if name != "noise"]
    if pictures:
        lines.append(f"textures {', '.join(pictures)}: {assets.texture_license}")
    return "; ".join(lines)
