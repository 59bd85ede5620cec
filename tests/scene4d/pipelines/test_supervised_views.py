"""From where a training renders: what each kind of cameras means, in whose world, and where gradients pass."""

import pytest
import torch
from textured_wall import make_batch, make_network

from scene4d.geometry.cameras import relative_to_first
from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.pipelines import Reconstructor
from scene4d.pipelines.supervised_views import place_views
from scene4d.types import Cameras


def in_another_world(cameras: Cameras, unit: float) -> Cameras:
    turn, c2w = quaternion_to_matrix(torch.tensor([0.3, -0.8, 0.4, 0.2])), cameras.c2w.clone()
    c2w[..., :3, :3] = turn @ cameras.c2w[..., :3, :3]
    c2w[..., :3, 3] = unit * cameras.c2w[..., :3, 3] @ turn.T + 1
    return Cameras(c2w, cameras.intrinsics)


@torch.no_grad()
@pytest.mark.parametrize("depth", [False, True])
def test_aligned_targets_stand_where_the_predicted_inputs_say(depth):
    """The data's cameras are the predicted ones, told in another world: nothing but that world may change."""
    network, batch = make_network(), make_batch(t=1)
    pipeline, n = Reconstructor(network), batch.inputs
    prediction = network(batch.images[:, :n])
    predicted = prediction.cameras
    targets = predicted.c2w[:, :2].clone()
    targets[..., :3, 3] += 0.1
    whole = Cameras(torch.cat([predicted.c2w, targets], 1), batch.cameras.intrinsics)
    batch.cameras = in_another_world(whole, 50.0)
    batch.depths = torch.cat([prediction.depths, batch.depths[:, n:]], 1) * 50 if depth else None
    views = place_views(pipeline, batch, prediction, "aligned")
    torch.testing.assert_close(views.seen_from.c2w, whole.c2w, rtol=1e-3, atol=1e-4)
    assert torch.equal(
        views.seen_from.intrinsics[:, :n], predicted.intrinsics
    )  # inputs as they were predicted
    assert torch.equal(
        views.seen_from.intrinsics[:, n:], batch.cameras.intrinsics[:, n:]
    )  # targets as they are
    assert torch.equal(views.located.cameras.c2w, predicted.c2w)
    true = relative_to_first(batch.cameras.c2w)[:, :, :3, :3]
    torch.testing.assert_close(views.cameras.c2w[:, :, :3, :3], true)  # losses of geometry see the truth


@torch.no_grad()
def test_given_cameras_are_the_normalised_true_ones():
    network, batch = make_network(), make_batch(t=1)
    views = place_views(Reconstructor(network), batch, network(batch.images[:, :3]), "given")
    assert torch.equal(views.seen_from.c2w, views.cameras.c2w)
    assert torch.equal(views.located.cameras.c2w, views.cameras.c2w[:, :3])


def test_predicted_targets_are_those_of_the_papers_protocol_and_fixed():
    network, batch = make_network(), make_batch(t=1)
    pipeline, images = Reconstructor(network), batch.images[:, :3]
    again = pipeline.look_again(batch.images, 3)
    prediction = network(images)
    views = place_views(pipeline, batch, prediction, "predicted", again)
    expected = pipeline.pose_free_cameras(batch.images, pipeline.assemble(prediction, images))
    assert torch.equal(views.seen_from.c2w[:, 3:], expected.c2w)
    assert torch.equal(views.seen_from.c2w[:, :3], prediction.cameras.c2w)
    assert not views.seen_from.c2w[:, 3:].detach().equal(views.cameras.c2w[:, 3:])
    (gradient,) = torch.autograd.grad(
        views.seen_from.c2w[:, 3:].sum() + 0 * prediction.depths.sum(), prediction.depths
    )
    assert gradient.abs().max() == 0  # the unit of the targets does not move the depth
