"""Losses of the reconstruction: each sees its own error, says what it lacks, and adds up in the given order."""

import pytest
import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.geometry.cameras import unproject
from scene4d.geometry.normalised_batches import static_scenes
from scene4d.geometry.pose_encoding import encode_pose
from scene4d.geometry.supervision import match_loss, true_matches
from scene4d.losses import (
    BackgroundLoss,
    CameraLoss,
    ConfidenceLoss,
    DepthLoss,
    ImageLoss,
    MatchingLoss,
    Outcome,
    PerceptualImageLoss,
    PointLoss,
    weighted_losses,
)
from scene4d.networks.vggt.view_matcher import CELL
from scene4d.types import Gaussians, Prediction


def outcome(**changes):
    """A prediction that equals the truth."""
    images, depths, cameras = static_scenes(make_batch(t=1))
    points = unproject(depths, cameras[:, :, None])
    poses = [encode_pose(cameras, SIZE, SIZE)]
    prediction = Prediction(cameras, poses, depths.clamp(min=1e-3), torch.ones_like(depths), points)
    g = depths.numel()
    gaussians = Gaussians(
        *(torch.zeros(1, 1, g, c) for c in (3, 4, 3)), torch.zeros(1, 1, g), torch.zeros(1, 1, g, 3)
    )
    made = Outcome(prediction, depths, cameras, torch.Generator().manual_seed(0), gaussians, images, images)
    for name, value in changes.items():
        setattr(made if hasattr(made, name) else prediction, name, value)
    return made


@pytest.mark.parametrize(
    "loss", [CameraLoss(), DepthLoss(), PointLoss(), ImageLoss(), PerceptualImageLoss(), BackgroundLoss()]
)
def test_the_truth_costs_nothing(loss):
    assert float(loss(outcome())) == pytest.approx(0, abs=1e-5)


def test_every_loss_sees_its_own_error():
    right = outcome()
    prediction, truth = right.prediction, right.truth
    wrong = {
        CameraLoss(): outcome(poses=[prediction.poses[0] + 0.1]),
        DepthLoss(): outcome(depths=right.depths * 2),
        PointLoss(): outcome(points=prediction.points + 0.1),
        ImageLoss(): outcome(rendered=1 - truth),
        PerceptualImageLoss(): outcome(rendered=1 - truth),
    }
    for loss, seen in wrong.items():
        assert loss(seen) > 0.01, loss.name
    assert wrong and ImageLoss()(outcome(rendered=truth + 0.1)) == pytest.approx(0.01, rel=1e-3)


def test_depth_differences_have_a_weight_of_their_own():
    tilted = outcome(depths=outcome().depths * torch.linspace(1, 2, SIZE))
    flat, steep = (DepthLoss(gradient_weight=w)(tilted) for w in (0.0, 2.0))
    assert 0 < flat < steep


def test_the_confidence_learns_and_the_depth_does_not():
    seen = outcome()
    seen.prediction.depths = (seen.prediction.depths * 2).requires_grad_()
    seen.prediction.depth_confidence.requires_grad_()
    ConfidenceLoss()(seen).backward()
    assert seen.prediction.depths.grad is None and seen.prediction.depth_confidence.grad.abs().sum() > 0


def test_the_background_counts_empty_pixels_of_frames_with_depth_alone():
    seen = outcome()
    seen.depths[:, 1] = 0  # a frame without depth: nothing is known about it
    empty = (seen.depths <= 0).flatten(1)[:, None]
    empty[..., SIZE * SIZE : 2 * SIZE * SIZE] = False
    seen.gaussians.opacities = empty.float()
    assert BackgroundLoss()(seen) == 1
    seen.gaussians.opacities = 1 - empty.float()
    assert BackgroundLoss()(seen) == 0


def test_matching_pairs_come_from_the_generator_and_cells_from_the_features():
    features = make_network()(static_scenes(make_batch(t=1))[0]).match_features
    losses = []
    for seed in (0, 0, 1, 2, 3):
        seen = outcome(match_features=features, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(len(losses))  # the global numbers do not matter
        losses.append(MatchingLoss()(seen).item())
        assert 0 <= seen.figures["match_accuracy"] <= 1
    assert losses[0] == losses[1] and len(set(losses)) == 2  # two other views
    pixels, visible = true_matches(seen.depths[:, :, 0], seen.cameras, CELL)
    expected = set()
    for step in (1, 2):
        second = (torch.arange(3) + step) % 3
        chosen = (x[:, range(3), :, second].transpose(0, 1) for x in (pixels, visible))
        logits = features[:, 0] @ features[:, 0][:, second].mT
        expected.add(match_loss(logits, *chosen, SIZE // CELL, CELL)[0].item())
    assert sorted(set(losses)) == pytest.approx(sorted(expected))


def test_a_single_view_has_nothing_to_match():
    seen = outcome(match_features=torch.ones(1, 1, 1, 64, 8, requires_grad=True))
    seen.depths, seen.cameras = seen.depths[:, :1], seen.cameras[:, :1]
    assert MatchingLoss()(seen) == 0


@pytest.mark.parametrize(
    ("loss", "lacking", "what"),
    [
        (PointLoss(), "points", r"PointLoss \(loss 'points'\) needs a point head: .* point_head: true"),
        (
            MatchingLoss(),
            "match_features",
            r"MatchingLoss \(loss 'matching'\) needs a view matcher: .*match_views",
        ),
        (ImageLoss(), "rendered", r"ImageLoss \(loss 'mse'\) needs rendered views"),
        (PerceptualImageLoss(), "rendered", r"PerceptualImageLoss \(loss '.*'\) needs rendered views"),
        (BackgroundLoss(), "gaussians", r"BackgroundLoss \(loss 'background'\) needs Gaussians"),
    ],
)
def test_a_loss_names_what_it_lacks(loss, lacking, what):
    seen = outcome()
    setattr(seen if lacking in ("rendered", "gaussians") else seen.prediction, lacking, None)
    with pytest.raises(ValueError, match=what):
        loss(seen)


def test_weights_multiply_and_the_order_is_kept():
    seen = outcome(rendered=outcome().truth + 0.1)
    losses = [ImageLoss(20.0), DepthLoss(2.0), CameraLoss(0.0)]
    found = weighted_losses(losses, seen)
    assert list(found) == ["mse", "depth", "camera"]
    assert torch.equal(found["mse"], 20.0 * ImageLoss()(seen))
    assert float(seen.figures["psnr"]) == pytest.approx(20, abs=0.01)
    with pytest.raises(ValueError, match="'mse' is listed twice"):
        weighted_losses([ImageLoss(), ImageLoss()], seen)


def test_the_perceptual_loss_has_the_name_of_its_network_and_no_weights_to_save():
    loss = PerceptualImageLoss()
    assert loss.name == loss.distance.score in ("lpips_vgg", "squeezenet_distance")
    assert not loss.state_dict() and not list(loss.parameters())
