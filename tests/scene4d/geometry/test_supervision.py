import torch

from scene4d.geometry.cameras import unproject
from scene4d.geometry.pose_encoding import encode_pose
from scene4d.geometry.supervision import (
    confidence_loss,
    depth_loss,
    masked_mean,
    match_loss,
    point_loss,
    pose_loss,
    true_matches,
)
from scene4d.types import Cameras


def sideways_scene(shift=0.5, depth=2.0, size=16, focal=16.0):
    """Two cameras before a wall; the second is `shift` to the right, so points move left in its image."""
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[0, 1, 0, 3] = shift
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).repeat(1, 2, 1, 1)
    return torch.full((1, 2, size, size), depth), Cameras(c2w, intrinsics)


def test_masked_mean_ignores_nan_outside_and_empty_masks():
    values = torch.tensor([1.0, 3.0, torch.nan])
    assert masked_mean(values, torch.tensor([True, True, False])) == 2
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0


def test_depth_loss_leaves_out_unknown_depth():
    truth = torch.ones(1, 1, 1, 4, 4)
    truth[..., 0] = 0
    wrong_background = truth.clone()
    wrong_background[..., 0] = 9
    assert depth_loss(wrong_background, truth) == 0
    doubled = depth_loss(2 * truth.clamp(min=0.1), truth)
    assert torch.allclose(doubled, torch.tensor(2.0).log(), atol=1e-6)  # differences of the log do not change


def test_pose_loss_is_zero_at_the_truth_and_prefers_later_iterations():
    _, cameras = sideways_scene()
    truth = encode_pose(cameras, 16, 16)
    assert pose_loss([truth, truth], cameras, 16, 16) == 0
    early, late = (
        pose_loss([truth + 0.1, truth], cameras, 16, 16),
        pose_loss([truth, truth + 0.1], cameras, 16, 16),
    )
    assert 0 < early < late


def test_confidence_loss_trains_the_confidence_alone():
    depths = torch.full((1, 1, 1, 2, 2), 1.5, requires_grad=True)
    confidence = torch.full((1, 1, 1, 2, 2), 2.0, requires_grad=True)
    confidence_loss(confidence, depths, torch.ones(1, 1, 1, 2, 2)).backward()
    assert depths.grad is None
    assert (confidence.grad > 0).all()  # error 0.5 > alpha / c: be less sure


def test_point_loss_is_zero_at_the_truth():
    depths, cameras = sideways_scene()
    points = unproject(depths, cameras)[:, :, None]
    assert point_loss(points, depths[:, :, None], cameras) < 1e-6
    assert point_loss(points + 1, depths[:, :, None], cameras) > 0.1


def test_true_matches_move_by_the_disparity_and_leave_the_image():
    depths, cameras = sideways_scene()  # disparity = focal * shift / depth = 4 pixels = one cell
    pixels, visible = true_matches(depths, cameras, cell=4)
    centres = torch.tensor([2.5, 6.5, 10.5, 14.5])  # the centre of a cell is sampled at its lower right pixel
    assert torch.allclose(pixels[0, 0, :4, 1, 0], centres - 4)
    assert visible[0, 0, :4, 1].tolist() == [False, True, True, True]
    assert not visible[0, 0, :, 0].any()  # a view is not matched with itself


def test_hidden_and_unknown_points_do_not_match():
    depths, cameras = sideways_scene()
    hidden = depths.clone()
    hidden[0, 1] = 1.0  # the second view sees something nearer
    assert not true_matches(hidden, cameras, cell=4)[1].any()
    unknown = depths.clone()
    unknown[0, 0] = 0
    assert not true_matches(unknown, cameras, cell=4)[1].any()


def test_match_loss_has_its_minimum_at_the_shared_truth():
    depths, cameras = sideways_scene(shift=0.75)  # six pixels: between two cells
    pixels, visible = true_matches(depths, cameras, cell=4)
    logits = torch.zeros(1, 2, 16, 2, 16, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        loss, accuracy = match_loss(logits, pixels, visible, columns=4, cell=4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    columns = (torch.arange(16) % 4 + 0.5) * 4
    expected = (logits.detach().softmax(-1) * columns).sum(-1)
    assert accuracy == 1
    inside = visible & (pixels[..., 0] > 2) & (pixels[..., 0] < 14)
    assert (expected - pixels[..., 0])[inside].abs().max() < 0.3  # pixels, far below a cell
