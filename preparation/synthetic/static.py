"""Still rooms with furniture: closed floor, walls and ceiling, so that depth is known everywhere.

    python -m preparation.static --root furniture --textures tilesets/*/textures \\
        --output data/small --scenes 1000 --split train

`--root` holds the unzipped catalogues of the Debian package sweethome3d-furniture (CC0-1.0, CC-BY-3.0 or
CC-BY-3.0-US, by catalogue); the textures come with the Debian package megaglest-data (CC-BY-SA-3.0). The licence
of every sample names the models and pictures it shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic.models import Model
from preparation.synthetic.stage import (
    Assets,
    RejectedScene,
    attribution,
    phrase,
    random_cameras,
    random_lamps,
    random_models,
    reject_near_objects,
    render_views,
    wall,
)
from preparation.synthetic.surfaces import Surface, random_surface
from scene4d.sample_format import SceneSample

STAGE_RADIUS = 1.0
NEAREST = 0.6


def make_scene(assets: Assets, rng: np.random.Generator, key: str) -> SceneSample:
    """Draws and renders one scene.

    Raises:
        RejectedScene: Objects do not fit side by side or hide a camera.
    """
    models = random_models(assets, rng, int(rng.integers(3, 7)))
    lamps = random_lamps(rng)
    floor = random_surface(list(assets.textures), rng, 640, 6)
    side = random_surface(list(assets.textures), rng, 640, 6)
    ceiling = random_surface(list(assets.textures), rng, 320, 4)
    meshes = room((floor, side, ceiling), rng, lamps) + stand(models, rng, lamps)
    target = (*rng.uniform(-0.2, 0.2, 2).tolist(), float(rng.uniform(0.25, 0.45)))
    c2w, intrinsics = random_cameras(rng, target, (2.1, 2.8), size=assets.size)
    reject_near_objects(meshes, c2w, intrinsics, NEAREST, assets.size)
    images, depths = render_views(meshes, c2w, intrinsics, assets.size)
    if (depths == 0).any():
        raise RejectedScene("the room is not closed around a camera")
    labels = [model.entry.label for model in models]
    return SceneSample(
        key=key,
        source="static",
        images=images[:, None],
        fps=12.0,
        c2w=c2w,
        intrinsics=intrinsics,
        depths=depths[:, None],
        depth_frames=[0],
        caption=f"{phrase(labels)} in a room with a {floor.label} floor and {side.label} walls",
        group="+".join(sorted(model.entry.name for model in models)),
        license=attribution(models, assets, [floor.name, side.name, ceiling.name]),
    )


def room(
    surfaces: tuple[Surface, Surface, Surface], rng: np.random.Generator, lamps: tuple[ndarray, ndarray]
) -> list[Mesh]:
    """Builds a box of random size and turn around the origin, with its floor at z = 0, lit from inside.

    Args:
        surfaces: Textures of floor, walls and ceiling.
        rng: Decides size and turn.
        lamps: Directions and strengths of the lamps.
    """
    half, height, turn = rng.uniform(3.3, 4.4), rng.uniform(2.6, 3.6), rng.uniform(0, 2 * np.pi)
    x = np.array([np.cos(turn), np.sin(turn), 0]) * half
    y = np.array([-np.sin(turn), np.cos(turn), 0]) * half
    up = np.array([0, 0, height])
    floor, side, ceiling = (surface.texture for surface in surfaces)
    meshes = [wall(-x - y, 2 * x, 2 * y, floor, lamps), wall(-x - y + up, 2 * y, 2 * x, ceiling, lamps)]
    along = ((-x - y, 2 * y), (-x + y, 2 * x), (x + y, -2 * y), (x - y, -2 * x))
    for number, (corner, edge) in enumerate(along):
        # every wall shows another part of the texture, with square texels
        height_texels = max(1, round(len(side) * height / (2 * half)))
        strip = np.roll(side, number * len(side) // 4, axis=0)[:height_texels]
        meshes.append(wall(corner, edge, up, strip, lamps))
    return meshes


def stand(models: Sequence[Model], rng: np.random.Generator, lamps: tuple[ndarray, ndarray]) -> list[Mesh]:
    """Puts models upright on the floor, turned at random, with their footprints apart.

    Raises:
        RejectedScene: There is no free place.
    """
    placed: list[tuple[ndarray, float]] = []
    meshes: list[Mesh] = []
    for model in models:
        scale, turn = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)
        radius = float(np.hypot(*model.extents[:2])) * scale / 2
        place = _free_place(placed, radius, rng)
        placed.append((place, radius))
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        meshes += model.posed(rotation, np.array([*place, model.extents[2] * scale / 2]), scale, lamps)
    return meshes


def _free_place(placed: Sequence[tuple[ndarray, float]], radius: float, rng: np.random.Generator) -> ndarray:
    for _ in range(40):
        place = rng.uniform(-STAGE_RADIUS, STAGE_RADIUS, 2)
        if all(np.linalg.norm(place - other) > radius + taken for other, taken in placed):
            return place
    raise RejectedScene(f"no free place for {len(placed) + 1} objects")
