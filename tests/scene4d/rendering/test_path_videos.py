"""Videos along camera paths."""

import numpy as np
import pytest
import torch

from scene4d.geometry.rotations import rotation_angle
from scene4d.geometry.trajectories import arc
from scene4d.rendering import path_videos, render_gaussians
from scene4d.rendering.path_videos import path_video, there_and_back
from scene4d.types import Cameras, Gaussians

SIZE, V = 16, 3
CAMERAS = Cameras(
    arc(V, 0, 40, 10, 0, 3.0), torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]).expand(V, 3, 3)
)


def frames(count: int) -> list[Gaussians]:
    """Balls that become redder with time."""
    g = torch.Generator().manual_seed(0)
    means = 0.3 * torch.randn(60, 3, generator=g)
    return [
        Gaussians(
            means=means, quats=torch.tensor([1.0, 0, 0, 0]).expand(60, 4), scales=torch.full((60, 3), 0.1),
            opacities=torch.full((60,), 0.9), colors=torch.tensor([k / count, 0.2, 0]).expand(60, 3),
        )
        for k in range(count)
    ]  # fmt: skip


def redness(video):
    return video[:, 8, 8, 0] / 255


@pytest.mark.parametrize(
    "path, count", [("orbit", 8), ("inputs", 8), ("freeze_time", path_videos.STILL), ("fixed_view", 4)]
)
def test_time_and_camera_of_every_path(path, count):
    video = path_video(path, frames(4), CAMERAS, (SIZE, SIZE), rounds=2).astype(float)
    assert video.shape == (count, SIZE, SIZE, 3)
    runs = redness(video)[:4]
    assert (np.ptp(runs) < 0.02) if path == "freeze_time" else (np.diff(runs) > 0.15).all()
    if path == "fixed_view":
        truth = render_gaussians(frames(4)[2], CAMERAS[:1], SIZE, SIZE).images[0].movedim(0, -1).numpy()
        assert np.abs(video[2] / 255 - truth).max() < 0.003
    elif path == "inputs":  # halfway is the last camera
        truth = render_gaussians(frames(4)[0], CAMERAS[-1:], SIZE, SIZE).images[0].movedim(0, -1).numpy()
        assert np.abs(video[4] / 255 - truth).max() < 0.02
    else:
        assert np.abs(np.diff(video[:, :, :, 1], axis=0)).mean((1, 2)).min() > 0  # the camera moves


def test_a_path_through_the_cameras_visits_each_and_turns_evenly():
    poses = there_and_back(CAMERAS.c2w, 4)
    for found, expected in zip(poses, CAMERAS.c2w[[0, 1, 2, 1]]):
        assert torch.allclose(found, expected, atol=1e-5)
    dense = there_and_back(CAMERAS.c2w, 200)
    steps = rotation_angle(dense[1:, :3, :3], dense[:-1, :3, :3])
    assert steps.max() < 1 and torch.allclose(torch.linalg.det(dense[:, :3, :3]), torch.ones(200), atol=1e-5)
    alone = CAMERAS.c2w[:1]
    assert torch.allclose(there_and_back(alone, 3), alone.expand(3, 4, 4), atol=1e-6)


def test_only_pictures_leave_the_device(monkeypatch):
    """The Gaussians that are drawn are the very ones that were given: nothing is copied to draw a path."""
    given, drawn = frames(2), []
    monkeypatch.setattr(
        path_videos, "render_gaussians", lambda g, *x: drawn.append(g) or render_gaussians(g, *x)
    )
    path_video("orbit", given, CAMERAS, (SIZE, SIZE), rounds=1)
    assert all(a is b for a, b in zip(drawn, given))
