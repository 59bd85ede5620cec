"""Cameras that a user knows: any unit and world, whole or intrinsics alone, and mistakes in one line."""

import pytest
import torch
from textured_wall import make_batch, make_network

from scene4d.geometry.cameras import camera_spread, relative_to_first, scale_cameras
from scene4d.pipelines import Reconstructor
from scene4d.pipelines.known_cameras import check_known, known_part
from scene4d.types import Cameras


def trusting():
    network = make_network()
    network.aggregator.matcher.log_temperature.data.fill_(6.0)  # so that matches are trusted
    return network


@pytest.mark.parametrize("refine", [False, True])
def test_the_unit_and_the_world_of_known_cameras_change_nothing(refine):
    batch, reconstructor, scenes = make_batch(targets=0, t=1), Reconstructor(trusting(), refine=refine), []
    for unit, shift in ((1.0, 0.0), (40.0, 5.0)):
        cameras = scale_cameras(batch.cameras, torch.tensor([unit]))
        cameras.c2w[..., :3, 3] += shift
        scenes.append(reconstructor(batch.images, cameras))
    torch.testing.assert_close(scenes[0].gaussians.means, scenes[1].gaussians.means, rtol=1e-3, atol=1e-3)
    found = scenes[0].cameras
    torch.testing.assert_close(found.c2w[..., :3, :3], relative_to_first(batch.cameras.c2w)[..., :3, :3])
    assert torch.equal(found.intrinsics, batch.cameras.intrinsics)
    free = reconstructor(batch.images, intrinsics=batch.cameras.intrinsics).cameras
    torch.testing.assert_close(camera_spread(found.c2w), camera_spread(free.c2w), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("refine", [False, True])
def test_known_intrinsics_are_kept_and_used(refine):
    batch, reconstructor = make_batch(targets=0, t=1), Reconstructor(trusting(), refine=refine)
    intrinsics = batch.cameras.intrinsics.clone()
    intrinsics[:, 1, 0, 0], intrinsics[:, 1, 0, 2] = 55.0, 14.0  # views may differ, and need not be centred
    scene, free = reconstructor(batch.images, intrinsics=intrinsics), reconstructor(batch.images)
    torch.testing.assert_close(scene.cameras.intrinsics, intrinsics, rtol=1e-4, atol=0)
    assert not torch.allclose(free.cameras.intrinsics, intrinsics, rtol=0.01)
    assert not torch.allclose(scene.gaussians.means, free.gaussians.means)


def test_one_view_keeps_its_unit():
    batch = make_batch(inputs=1, targets=0, t=1)
    for refine in (False, True):
        scene = Reconstructor(make_network(), refine=refine)(batch.images, batch.cameras)
        assert torch.equal(scene.cameras.c2w, torch.eye(4)[None, None])


def test_mistakes_are_named():
    batch, reconstructor = make_batch(targets=0, t=1), Reconstructor(make_network())
    with pytest.raises(ValueError, match=r"shape \(1, 2\) and \(1, 2\), images of \(1, 3\)"):
        reconstructor(batch.images, batch.cameras[:, :2])
    with pytest.raises(ValueError, match="not both"):
        reconstructor(batch.images, batch.cameras, batch.cameras.intrinsics)
    with pytest.raises(ValueError, match=r"scenes \[0\]: a focal length is not positive"):
        reconstructor(batch.images, intrinsics=batch.cameras.intrinsics * -1)
    broken = Cameras(batch.cameras.c2w * 2, batch.cameras.intrinsics)
    with pytest.raises(ValueError, match=r"scenes \[0\]: a camera is no rotation"):
        reconstructor(batch.images, broken)


def test_what_predict_uses_of_a_batch():
    batch = make_batch(t=1)
    assert known_part(batch, "nothing") == (None, None)
    assert known_part(batch, "cameras") == (batch.cameras, None)
    assert known_part(batch, "intrinsics")[1] is batch.cameras.intrinsics
    batch.cameras = None
    assert known_part(batch, "nothing") == (None, None)
    with pytest.raises(ValueError, match=r"known is 'cameras', but sources \['objects'\] have no cameras"):
        known_part(batch, "cameras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.c2w[..., 0].neg_(), "reflection"),
        (lambda c: c.c2w[0, 1, 3, 0].fill_(1), "last row of a camera"),
        (lambda c: c.intrinsics[0, 1, 2, 2].fill_(2), "last row of intrinsics"),
    ],
)
def test_cameras_that_cannot_be_are_named(change, message):
    cameras = Cameras(torch.eye(4).repeat(1, 2, 1, 1), torch.eye(3).repeat(1, 2, 1, 1))
    check_known(cameras, (1, 2))
    change(cameras)
    with pytest.raises(ValueError, match=f"known cameras of scenes .0.: .*{message}"):
        check_known(cameras, (1, 2))
