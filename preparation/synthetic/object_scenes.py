"""Draws one scene of the objects source: a random unit, clip, phase and camera arc, rendered view by view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from preparation.rendering.mesh_renderer import Mesh, light_factor, render
from preparation.synthetic.g3d import G3DMesh
from preparation.synthetic.object_clips import Clip, drawable_meshes
from preparation.writing.jobs import SkippedScene
from scene4d.geometry.trajectories import arc
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample

SOURCE = "objects"
LICENSE = (
    "CC-BY-SA-3.0, models from MegaGlest data, (c) The Glest Team, The MegaGlest Team and faction authors"
)
VIEWS = 8
FRAMES = 29
FPS = 12.0
SIZE = 64
SUPERSAMPLE = 4
DEPTH_FRAMES = list(range(0, FRAMES, 4))
DEPTH_LEVELS = 1285  # a divisor of 65535, for smaller files; about 0.003 units per level
TEXTURE_SIZE = 128
MIN_CHANGE = 0.1  # see `image_change`
ATTEMPTS = 8


def draw_scene(
    clips: Sequence[Clip], split: str, seed: int, index: int
) -> Iterator[SceneSample | SkippedScene]:
    """Yields rejected clips, then scene `index` of a split, without its caption embedding.

    Units take turns in a random order; clip, phase and cameras are random. Clips whose image hardly changes
    are rejected; after `ATTEMPTS` of them the next unit is tried.

    Args:
        clips: Clips of this split.
        split: train or val; part of the key and of the random seed.
        seed: Seed of the whole set.
        index: Number of the scene, which depends on nothing else.

    Raises:
        ValueError: No unit has a clip that moves enough.
    """
    units = sorted({clip.unit for clip in clips})
    order = np.random.default_rng([seed, len(split), index // len(units)]).permutation(len(units))
    rng = np.random.default_rng([seed, len(split), index, 1])
    for drawing in range(len(units) * ATTEMPTS):
        unit = units[order[(index + drawing // ATTEMPTS) % len(units)]]
        candidates = [clip for clip in clips if clip.unit == unit]
        clip = candidates[rng.integers(len(candidates))]
        scene = render_clip(clip, rng, scene_key(split, seed, index))
        if scene is not None:
            yield scene
            return
        yield SkippedScene(f"drawing {drawing}", f"{clip.path.name} hardly changes the image")
    raise ValueError(f"none of the {len(units)} units moves enough for scene {index} of {split}")


def scene_key(split: str, seed: int, index: int) -> str:
    """Returns a key such as `objects-train-0-000012`."""
    return f"{SOURCE}-{split}-{seed}-{index:06d}"


def render_clip(clip: Clip, rng: np.random.Generator, key: str) -> SceneSample | None:
    """Renders all views and frames of a clip, or returns None when its first view hardly changes.

    The object is scaled so that cameras at 2.2 to 2.8 units just hold it in every view and frame.
    """
    half_fov = np.radians(rng.uniform(37, 43)) / 2
    focal = SIZE / 2 / np.tan(half_fov)
    intrinsics = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]], np.float32)
    c2w = _random_arc(rng)
    frames = clip_meshes(clip, key_frame_times(clip.key_frames, clip.loops, rng))
    _fit(frames, c2w, half_fov, fill=rng.uniform(0.85, 0.96))
    views: list[list[tuple[ndarray, ndarray]]] = []
    for pose in c2w:
        views.append([render(meshes, pose, intrinsics, SIZE, SIZE, SUPERSAMPLE) for meshes in frames])
        if len(views) == 1 and image_change(np.stack([image for image, _ in views[0]])) < MIN_CHANGE:
            return None
    depths = np.stack([[view[k][1] for k in DEPTH_FRAMES] for view in views])
    level = depths.max() / DEPTH_LEVELS
    return SceneSample(
        key=key, source=SOURCE, fps=FPS, caption=clip.caption, group=clip.group, license=LICENSE,
        images=np.stack([[image for image, _ in view] for view in views]),
        depths=np.round(depths / level) * level, depth_frames=DEPTH_FRAMES,
        c2w=c2w, intrinsics=np.repeat(intrinsics[None], VIEWS, 0),
    )  # fmt: skip


def key_frame_times(
    key_frames: int, loops: bool, rng: np.random.Generator, frames: int = FRAMES
) -> Float[ndarray, "t"]:
    """Draws `frames` evenly spaced positions in an animation, in units of key frames.

    Loops show half a cycle to a whole one from any phase; their positions may exceed the last key frame and are
    taken modulo. One-way animations show at least 0.7 of themselves.
    """
    if loops:
        span, start = rng.uniform(0.5, 1) * key_frames, rng.uniform(0, key_frames)
    else:
        span = rng.uniform(0.7, 1) * (key_frames - 1)
        start = rng.uniform(0, key_frames - 1 - span)
    return start + span * np.linspace(0, 1, frames)


def between_key_frames(
    values: Float32[ndarray, "k n 3"], position: float, loops: bool
) -> Float32[ndarray, "n 3"]:
    """Interpolates linearly; beyond the last key frame it goes on to the first (loops) or stays."""
    before = int(np.floor(position))
    weight = np.float32(position - before)
    if loops:
        before, after = before % len(values), (before + 1) % len(values)
    else:
        before, after = min(before, len(values) - 1), min(before + 1, len(values) - 1)
    return (1 - weight) * values[before] + weight * values[after]


def camera_distance(
    points: Float[ndarray, "n 3"], c2w: Float[ndarray, "v 4 4"], half_fov: float, fill: float
) -> float:
    """Returns the distance at which cameras that look at the origin just hold all points.

    If a point is at (x, y, z) along the axes of a camera, its image is at x / (z + distance), which is within
    `fill * tan(half_fov)` when distance >= |x| / (fill * tan(half_fov)) - z. The same holds for y.

    Args:
        points: World positions.
        c2w: Camera-to-world matrices, of which only the rotations count.
        half_fov: Half the field of view, radians.
        fill: Share of the half image that may be used, 0..1.
    """
    turned = np.einsum("nd,vdk->vnk", points, c2w[:, :3, :3])
    across = np.abs(turned[..., :2]).max(-1)
    return float((across / (fill * np.tan(half_fov)) - turned[..., 2]).max())


def image_change(frames: UInt8[ndarray, "t h w 3"]) -> float:
    """Measures how far the most different frame is from the first one.

    Returns:
        Mean absolute difference over all pixels that are ever foreground, 0..1.
    """
    foreground = (frames < 250).any(axis=(0, 3))
    if not foreground.any():
        return 0.0
    difference = np.abs(frames.astype(np.float32) - frames[0]).mean(-1) / 255
    return float(difference[:, foreground].mean(1).max())


def _random_arc(rng: np.random.Generator) -> Float32[ndarray, "v 4 4"]:
    """Draws cameras at distance 1 from the origin, neighbours 5 to 6.4 degrees apart."""
    return arc(
        VIEWS,
        azimuth=rng.uniform(0, 360),
        total_angle=rng.choice([-1, 1]) * rng.uniform(35, 45),
        elevation=rng.uniform(7, 28),
        elevation_change=rng.uniform(-6, 6),
        distance=1.0,
    ).numpy()


def clip_meshes(clip: Clip, times: Float[ndarray, "t"]) -> list[list[Mesh]]:
    """Poses and lights the meshes of a clip at every time, in the units of the file, with z up."""
    sources = drawable_meshes(clip.path)
    textures = [
        _texture(clip.path.parent / s.texture) if s.texture and s.uv is not None else None for s in sources
    ]
    return [[_mesh_at(s, x, t, clip.loops) for s, x in zip(sources, textures)] for t in times]


def _mesh_at(source: G3DMesh, texture: UInt8[ndarray, "h w 3"] | None, position: float, loops: bool) -> Mesh:
    return Mesh(
        vertices=_z_up(between_key_frames(source.vertices, position, loops)),
        faces=source.faces,
        shade=light_factor(_z_up(between_key_frames(source.normals, position, loops))),
        uv=source.uv if texture is not None else None,
        texture=texture,
        color=(1.0, 1.0, 1.0) if texture is not None else source.color,
    )


def _z_up(points: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 3"]:
    """Turns y up into z up by a quarter turn about x, not by a mirror."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def _fit(frames: list[list[Mesh]], c2w: Float32[ndarray, "v 4 4"], half_fov: float, fill: float) -> None:
    """Centres and scales the meshes and moves the cameras out to 2.2-2.8 units, both in place."""
    points = np.concatenate([mesh.vertices for meshes in frames for mesh in meshes])
    centre = (points.min(0) + points.max(0)) / 2
    distance = 2.2 + 0.6 * (0.96 - fill) / 0.11
    scale = distance / camera_distance(points - centre, c2w, half_fov, fill)
    for meshes in frames:
        for mesh in meshes:
            mesh.vertices = ((mesh.vertices - centre) * scale).astype(np.float32)
    c2w[:, :3, 3] *= distance


@lru_cache(maxsize=64)
def _texture(path: Path) -> UInt8[ndarray, "h w 3"]:
    """Reads the colours of a texture file, at most `TEXTURE_SIZE` pixels along its longer side."""
    image = open_picture(path).convert("RGB")
    longest = max(image.size)
    if longest > TEXTURE_SIZE:
        width, height = (max(1, round(side * TEXTURE_SIZE / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.array(image)
