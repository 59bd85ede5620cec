"""Draws one scene of the objects source: a random unit, clip, phase and camera arc, rendered view by view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh, render
from preparation.synthetic.moving_asset import MovingAsset
from preparation.writing.jobs import SkippedScene
from scene4d.geometry.trajectories import arc
from scene4d.sample_format import SceneSample

SOURCE = "objects"
VIEWS = 8
FRAMES = 29
FPS = 12.0
SIZE = 64
SUPERSAMPLE = 4
DEPTH_FRAMES = list(range(0, FRAMES, 4))
DEPTH_LEVELS = 1285  # a divisor of 65535, for smaller files; about 0.003 units per level
MIN_CHANGE = 0.1  # see `image_change`
ATTEMPTS = 8


def draw_scene(
    clips: Sequence[MovingAsset], split: str, seed: int, index: int, size: int = SIZE
) -> Iterator[SceneSample | SkippedScene]:
    """Yields rejected clips, then scene `index` of a split, without its caption embedding.

    Units take turns in a random order; clip, phase and cameras are random. Clips whose image hardly changes
    are rejected; after `ATTEMPTS` of them the next unit is tried.

    Args:
        clips: Clips of this split.
        split: train or val; part of the key and of the random seed.
        seed: Seed of the whole set.
        index: Number of the scene, which depends on nothing else.
        size: Height and width of the images, pixels.

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
        scene = render_clip(clip, rng, scene_key(split, seed, index), size)
        if scene is not None:
            yield scene
            return
        yield SkippedScene(f"drawing {drawing}", f"{clip.key} hardly changes the image")
    raise ValueError(f"none of the {len(units)} units moves enough for scene {index} of {split}")


def scene_key(split: str, seed: int, index: int) -> str:
    """Returns a key such as `objects-train-0-000012`."""
    return f"{SOURCE}-{split}-{seed}-{index:06d}"


def render_clip(
    clip: MovingAsset, rng: np.random.Generator, key: str, size: int = SIZE
) -> SceneSample | None:
    """Renders all views and frames of a clip, or returns None when its first view hardly changes.

    The object is scaled so that cameras at 2.2 to 2.8 units just hold it in every view and frame.
    """
    half_fov = np.radians(rng.uniform(37, 43)) / 2
    focal = size / 2 / np.tan(half_fov)
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
    c2w = _random_arc(rng)
    frames = clip.meshes(clip.times(rng, FRAMES, FPS))
    _fit(frames, c2w, half_fov, fill=rng.uniform(0.85, 0.96))
    views: list[list[tuple[ndarray, ndarray]]] = []
    for pose in c2w:
        views.append([render(meshes, pose, intrinsics, size, size, SUPERSAMPLE) for meshes in frames])
        if len(views) == 1 and image_change(np.stack([image for image, _ in views[0]])) < MIN_CHANGE:
            return None
    depths = np.stack([[view[k][1] for k in DEPTH_FRAMES] for view in views])
    level = depths.max() / DEPTH_LEVELS
    return SceneSample(
        key=key, source=SOURCE, fps=FPS, caption=clip.caption, group=clip.group, license=clip.license,
        images=np.stack([[image for image, _ in view] for view in views]),
        depths=np.round(depths / level) * level, depth_frames=DEPTH_FRAMES,
        c2w=c2w, intrinsics=np.repeat(intrinsics[None], VIEWS, 0),
    )  # fmt: skip


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
