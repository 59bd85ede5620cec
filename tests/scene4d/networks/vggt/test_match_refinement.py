import pytest
import torch

from scene4d.geometry.cameras import relative_to_first, unproject
from scene4d.geometry.rotations import rotation_angle
from scene4d.geometry.trajectories import arc
from scene4d.networks.vggt.match_refinement import (
    cameras_from_matches,
    correct_depth,
    depths_from_matches,
    match_timesteps,
)
from scene4d.types import Cameras, Prediction

SIZE, FOCAL = 64, 85.0


def make_prediction(depth_error=1.1, t=2):
    """A plane that fills four views on an arc; features spell out where on the plane a cell lies."""
    torch.manual_seed(0)
    c2w = arc(4, -90.0, 24, 45, 0, 2.5)[None]
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]).repeat(1, 4, 1, 1)
    cameras = Cameras(c2w, intrinsics)
    rays = unproject(torch.ones(1, 4, SIZE, SIZE), Cameras(c2w * _no_translation(), intrinsics))
    depths = -c2w[:, :, None, None, 2, 3] / rays[..., 2]  # where the rays meet z = 0
    points = unproject(depths, cameras)[:, :, 2::4, 2::4, :2].flatten(2, 3)
    frequencies = torch.randn(2, 128) * 9
    angles = points @ frequencies
    features = torch.cat([angles.cos(), angles.sin()], -1) / 128**0.5 * 60**0.5
    scale = depths.mean()
    truth = Cameras(relative_to_first(c2w), intrinsics)
    truth.c2w[..., :3, 3] /= scale
    depths = (depths / scale)[:, :, None].expand(-1, -1, t, -1, -1)
    wobble = 1 + (depth_error - 1) * torch.linspace(-1, 1, SIZE)
    guess = Cameras(torch.eye(4).expand(1, 4, 4, 4).contiguous(), intrinsics)
    prediction = Prediction(guess, [], depths * wobble, torch.ones_like(depths))
    prediction.match_features = features[:, None].expand(-1, t, -1, -1, -1)
    return prediction, truth, depths


def _no_translation():
    mask = torch.ones(4, 4)
    mask[:3, 3] = 0
    return mask


def relative_error(depths, truth):
    return ((depths - truth).abs() / truth).mean()


def refine(prediction, cameras=None):
    matches = match_timesteps(prediction)
    cameras = cameras_from_matches(prediction, matches) if cameras is None else cameras
    return cameras, depths_from_matches(prediction, matches, cameras)


def test_cameras_and_depth_follow_the_matches():
    prediction, truth, depths = make_prediction()
    cameras, refined = refine(prediction)
    assert rotation_angle(cameras.c2w[:, :, :3, :3], truth.c2w[:, :, :3, :3]).max() < 3.0
    ratio = (depths / refined).median()  # the unit of length is free
    assert relative_error(refined * ratio, depths) < 0.9 * relative_error(prediction.depths, depths)


def test_depth_is_triangulated_by_given_cameras():
    prediction, truth, depths = make_prediction()
    _, refined = refine(prediction, truth)
    assert relative_error(refined, depths) < 0.8 * relative_error(prediction.depths, depths)


def test_a_single_view_keeps_its_prediction():
    prediction, _, _ = make_prediction()
    one = Prediction(prediction.cameras[:, :1], [], prediction.depths[:, :1], prediction.depths[:, :1])
    one.match_features = prediction.match_features[:, :, :1]
    cameras, refined = refine(one)
    assert torch.equal(cameras.c2w, one.cameras.c2w)
    assert torch.allclose(refined, one.depths, rtol=1e-5)


def test_corrections_do_not_cross_depth_edges():
    depths = torch.ones(1, 1, 16, 16)
    depths[..., 8:] = 2.0
    cells = depths[:, :, 2::4, 2::4].flatten(2)
    found = torch.where(cells > 1.5, cells * 1.1, cells)
    corrected = correct_depth(depths, cells, found, torch.full_like(cells, 1e5))
    assert torch.allclose(corrected[..., :8], depths[..., :8], rtol=1e-3)
    assert torch.allclose(corrected[..., 8:], 1.1 * depths[..., 8:], rtol=1e-2)


def test_a_network_without_matcher_is_refused():
    prediction, _, _ = make_prediction()
    prediction.match_features = None
    with pytest.raises(ValueError, match="match_views"):
        match_timesteps(prediction)
