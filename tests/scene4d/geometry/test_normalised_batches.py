import pytest
import torch
from textured_wall import SIZE, make_batch

from scene4d.geometry.cameras import camera_spread, normalise_scene
from scene4d.geometry.normalised_batches import depth_is_known, normalise_batch, static_scenes


def test_every_timestep_becomes_a_normalised_static_scene():
    images, depths, cameras = static_scenes(make_batch(b=2, t=3))
    assert images.shape == (6, 3, 1, 3, SIZE, SIZE) and depths.shape == (6, 3, 1, SIZE, SIZE)
    assert torch.allclose(cameras.c2w[:, 0], torch.eye(4).expand(6, 4, 4), atol=1e-6)
    assert 0.8 < depths[depths > 0].mean() < 1.1


def test_batches_without_depth_or_cameras_are_named():
    batch = make_batch()
    batch.depths = None
    with pytest.raises(ValueError, match="objects"):
        static_scenes(batch)
    batch.cameras = None
    for function in (static_scenes, normalise_batch):
        with pytest.raises(ValueError, match="objects"):
            function(batch)


def test_the_one_scene_of_a_batch_that_has_no_depth_is_refused():
    batch = make_batch(b=2)
    batch.source = ["objects", "realestate"]
    batch.depths[1] = 0  # as the collation fills it
    with pytest.raises(ValueError, match=r"'realestate', sample 'scene1': no depth is known"):
        static_scenes(batch)


def test_a_scene_with_depth_does_not_notice_one_without():
    batch = make_batch(b=2)
    batch.depths[1] = 0
    assert not depth_is_known(batch)
    predicted = make_batch(b=2).cameras[:, :3]
    predicted.c2w[..., :3, 3] *= 7
    depths, cameras = normalise_batch(batch, predicted)
    true_depths, true_cameras, _ = normalise_scene(make_batch().depths, make_batch().cameras, 3)
    assert torch.equal(cameras.c2w[:1], true_cameras.c2w) and torch.equal(depths[:1], true_depths)
    assert not depths[1].any()
    torch.testing.assert_close(camera_spread(cameras.c2w[:, :3])[1], camera_spread(predicted.c2w)[1])


def test_depth_is_known_where_every_scene_has_some_in_its_inputs():
    batch = make_batch(b=2)
    assert depth_is_known(batch)
    batch.depths[0, :3] = 0  # the targets do not count
    assert not depth_is_known(batch)
    batch.depths = None
    assert not depth_is_known(batch)


def test_a_scene_without_any_unit_of_length_is_an_error():
    batch = make_batch(inputs=1)
    batch.depths = None
    with pytest.raises(ValueError, match=r"'objects', sample 'scene0': .*no unit of length"):
        normalise_batch(batch, batch.cameras[:, :1])
