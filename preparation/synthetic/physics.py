"""Falling and thrown furniture, simulated with Bullet, seen by eight static cameras, like the scenes of Kubric.

    python -m preparation.physics --root furniture --textures tilesets/*/textures \\
        --output data/small --scenes 500 --split train

`--root` holds the unzipped catalogues of the Debian package sweethome3d-furniture (CC0-1.0, CC-BY-3.0 or
CC-BY-3.0-US, by catalogue); the textures come with the Debian package megaglest-data (CC-BY-SA-3.0). The licence
of every sample names the models and pictures it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pybullet
from jaxtyping import Float32, Float64
from numpy import ndarray

from preparation.rendering.mesh_renderer import Mesh
from preparation.synthetic.models import Model
from preparation.synthetic.stage import (
    Assets,
    RejectedScene,
    attribution,
    disc,
    phrase,
    random_cameras,
    random_lamps,
    random_models,
    reject_near_objects,
    render_clip,
)
from preparation.synthetic.surfaces import random_surface
from scene4d.sample_format import SceneSample

FRAMES = 29
FPS = 12.0
DEPTH_EVERY = 4
STEPS_PER_FRAME = 20
GRAVITY = 3.0  # one scene unit stands for about 3 m
FLOOR_RADIUS = 7.0
STAGE_RADIUS = 1.5
MOVED = 0.12


@dataclass(frozen=True)
class Body:
    """A convex rigid body and its state at the first frame.

    Attributes:
        hull: Corners around the centre of mass, scene units.
        position: Position of the centre of mass.
        quaternion: Rotation as xyzw.
        velocity: Velocity in scene units per second.
        spin: Angular velocity in radians per second.
    """

    hull: Float32[ndarray, "k 3"]
    position: Float64[ndarray, "3"]
    quaternion: Float64[ndarray, "4"]
    velocity: Float64[ndarray, "3"]
    spin: Float64[ndarray, "3"]


def simulate(
    bodies: Sequence[Body], frames: int = FRAMES, restitution: float = 0.55, friction: float = 0.4
) -> tuple[Float64[ndarray, "t n 3"], Float64[ndarray, "t n 3 3"]]:
    """Simulates bodies on an infinite floor at z = 0 in 240 steps per second.

    Args:
        bodies: State at the first frame.
        frames: Number of frames, recorded at 12 per second; frame 0 is the start.
        restitution: 0 (no bounce) to 1.
        friction: Lateral friction of bodies and floor.

    Returns:
        Positions and rotations of every body at every frame.
    """
    client = pybullet.connect(pybullet.DIRECT)
    try:
        pybullet.setGravity(0, 0, -GRAVITY, client)
        plane = pybullet.createCollisionShape(pybullet.GEOM_PLANE, physicsClientId=client)
        handles = [pybullet.createMultiBody(0, plane, physicsClientId=client)]
        handles += [_add_body(body, client) for body in bodies]
        for handle in handles:
            pybullet.changeDynamics(
                handle, -1, restitution=restitution, lateralFriction=friction, physicsClientId=client
            )
        return _record(handles[1:], frames, client)
    finally:
        pybullet.disconnect(client)


def make_scene(assets: Assets, rng: np.random.Generator, key: str) -> SceneSample:
    """Draws, simulates and renders one scene.

    Raises:
        RejectedScene: Nothing moves for too long, or objects leave the stage or hide a camera.
    """
    models = random_models(assets, rng, int(rng.integers(3, 6)))
    scales = rng.uniform(0.55, 0.9, len(models))
    positions, rotations = simulate([_throw(m, s, k, rng) for k, (m, s) in enumerate(zip(models, scales))])
    _check_motion(positions)
    lamps = random_lamps(rng)
    floor = random_surface(list(assets.textures), rng, 768, 8)
    c2w, intrinsics = random_cameras(rng, (0.0, 0.0, rng.uniform(0.4, 0.55)), (2.6, 3.4), size=assets.size)
    ground = disc(FLOOR_RADIUS, floor.texture, lamps)

    def moving(frame: int) -> list[Mesh]:
        placed = zip(models, rotations[frame], positions[frame], scales)
        return [mesh for m, r, p, s in placed for mesh in m.posed(r, p, float(s), lamps)]

    for frame in (0, FRAMES // 4, FRAMES // 2, FRAMES - 1):
        reject_near_objects([ground, *moving(frame)], c2w, intrinsics, 0.8, assets.size)
    frames = [moving(frame) for frame in range(FRAMES)]
    images, depths = render_clip([ground], frames, c2w, intrinsics, assets.size)
    depth_frames = list(range(0, FRAMES, DEPTH_EVERY))
    labels = [model.entry.label for model in models]
    return SceneSample(
        key=key,
        source="physics",
        images=images,
        fps=FPS,
        c2w=c2w,
        intrinsics=intrinsics,
        depths=depths[:, depth_frames],
        depth_frames=depth_frames,
        caption=f"{phrase(labels)} falling on a {floor.label} floor",
        group="+".join(sorted(model.entry.name for model in models)),
        license=attribution(models, assets, [floor.name]),
    )


def _throw(model: Model, scale: float, order: int, rng: np.random.Generator) -> Body:
    """Every third body drops, the others are thrown across the middle; later ones start higher."""
    angle = rng.uniform(0, 2 * np.pi)
    aside = np.array([np.cos(angle), np.sin(angle)])
    dropped = order % 3 == 0
    start = aside * (rng.uniform(0, 0.5) if dropped else rng.uniform(0.8, 1.2))
    height = scale * 0.6 + (rng.uniform(0.3, 0.9) if dropped else rng.uniform(0.1, 0.6)) + 0.22 * order
    speed = rng.uniform(0, 0.3) if dropped else rng.uniform(0.6, 1.3)
    quaternion = rng.standard_normal(4)
    return Body(
        hull=model.hull * np.float32(scale),
        position=np.array([*start, height]),
        quaternion=quaternion / np.linalg.norm(quaternion),
        velocity=np.array([*(-aside * speed), rng.uniform(-0.3, 0.8)]),
        spin=rng.uniform(-3, 3, 3),
    )


def _add_body(body: Body, client: int) -> int:
    shape = pybullet.createCollisionShape(
        pybullet.GEOM_MESH, vertices=body.hull.tolist(), physicsClientId=client
    )
    handle = pybullet.createMultiBody(
        1.0,
        shape,
        basePosition=body.position.tolist(),
        baseOrientation=body.quaternion.tolist(),
        physicsClientId=client,
    )
    pybullet.resetBaseVelocity(handle, body.velocity.tolist(), body.spin.tolist(), client)
    return handle


def _record(handles: Sequence[int], frames: int, client: int) -> tuple[ndarray, ndarray]:
    positions, rotations = np.empty((frames, len(handles), 3)), np.empty((frames, len(handles), 3, 3))
    for frame in range(frames):
        for k, handle in enumerate(handles):
            place, quaternion = pybullet.getBasePositionAndOrientation(handle, client)
            positions[frame, k] = place
            rotations[frame, k] = np.reshape(pybullet.getMatrixFromQuaternion(quaternion), (3, 3))
        for _ in range(STEPS_PER_FRAME):
            pybullet.stepSimulation(client)
    return positions, rotations


def _check_motion(positions: Float64[ndarray, "t n 3"]) -> None:
    """Rejects a clip in which nothing moves for a third of the time, or objects leave the stage."""
    away = np.linalg.norm(positions[..., :2], axis=-1)
    if away[-1].max() > STAGE_RADIUS:
        raise RejectedScene(f"an object ends {away[-1].max():.1f} units from the middle")
    for third in np.array_split(positions, 3):
        moved = np.linalg.norm(third[-1] - third[0], axis=-1).max()
        if moved < MOVED:
            raise RejectedScene(f"nothing moves more than {moved:.3f} units within a third of the clip")
