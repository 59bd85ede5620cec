"""Test-time alignment finds the camera that a picture was taken with, also where Lightning allows no gradients."""

import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.geometry.cameras import relative_to_first
from scene4d.geometry.rotations import rotation_angle
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS, gaussians_from_maps
from scene4d.pipelines import Reconstructor
from scene4d.pipelines.pose_alignment import align_by_rendering
from scene4d.types import Cameras, Reconstruction


def test_a_moved_camera_comes_back():
    batch, pipeline = make_batch(t=1, endless=True), Reconstructor(make_network())
    cameras = Cameras(relative_to_first(batch.cameras.c2w), batch.cameras.intrinsics)
    raw = torch.zeros(1, 3, 1, GAUSSIAN_CHANNELS, SIZE, SIZE)
    raw[:, :, :, 3] = 4
    gaussians = gaussians_from_maps(raw, batch.images[:, :3], batch.depths[:, :3], cameras[:, :3], 0.3)
    scene, true = Reconstruction(cameras[:, :3], gaussians, torch.ones(1, 3)), cameras[:, 3:4]
    truth = pipeline.render(gaussians, true, (SIZE, SIZE), scene.background)
    start = true.c2w.clone()
    start[..., :3, 3] += torch.tensor([0.03, -0.02, 0.02])
    with torch.inference_mode():
        found = align_by_rendering(pipeline, scene, Cameras(start, true.intrinsics), truth, steps=20)
        shown = pipeline.render(gaussians, found, (SIZE, SIZE), scene.background)
        before = pipeline.render(gaussians, Cameras(start, true.intrinsics), (SIZE, SIZE), scene.background)
    assert (shown - truth).square().mean() < 0.1 * (before - truth).square().mean()
    assert (found.c2w - true.c2w)[..., :3, 3].norm() < 0.7 * (start - true.c2w)[..., :3, 3].norm()
    assert rotation_angle(found.c2w[..., :3, :3], true.c2w[..., :3, :3]).max() < 2
    assert torch.equal(found.intrinsics, true.intrinsics) and not found.c2w.requires_grad
