"""One useless scene among good ones: the loss and its gradients are those of the good ones alone."""

from types import SimpleNamespace

import pytest
import torch
from textured_wall import make_batch, make_network

from lightning_modules import GaussianReconstruction, GeometryPretraining
from scene4d.losses import CameraLoss, DepthLoss, ImageLoss, MatchingLoss


def optimizer(parameters):
    return torch.optim.AdamW(parameters)


def build(kind):
    if kind is GeometryPretraining:
        module = kind(make_network, [CameraLoss(5.0), DepthLoss(), MatchingLoss(0.2)], optimizer)
    else:
        losses = [ImageLoss(), DepthLoss(), CameraLoss(), MatchingLoss(0.1)]
        module = kind(make_network, losses, optimizer, trainable=[".*"], refine=True)
    module.log = module.log_dict = lambda *_, **__: None
    module.trainer = SimpleNamespace(
        accumulate_grad_batches=1, global_step=0, distributed_sampler_kwargs=None
    )  # fmt: skip
    module.configure_model()
    return module


def spoiled(batch, how):
    """Scene 2 of the batch becomes useless."""
    if how == "tripod":
        batch.depths[2], batch.cameras.c2w[2, :, :3, 3] = 0, 1.0
    elif how == "focal length":
        batch.cameras.intrinsics[2, 1, 0, 0] = 0
    elif how == "no cameras":
        batch.cameras.c2w[2], batch.cameras.intrinsics[2] = torch.nan, torch.nan
    else:
        batch.images[2, 0, 0, 0, 0, 0] = torch.nan
    return batch


def step(kind, batch):
    module = build(kind)
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", ["tripod", "focal length", "no cameras", "image"])
@pytest.mark.parametrize("kind", [GaussianReconstruction, GeometryPretraining])
def test_the_mean_is_that_of_the_useful_scenes(kind, how):
    loss, gradients = step(kind, spoiled(make_batch(b=3, t=1), how))
    alone, expected = step(kind, make_batch(b=2, t=1))
    assert loss == alone and gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", [GaussianReconstruction, GeometryPretraining])
def test_a_batch_without_a_useful_scene_takes_part_with_zero(kind):
    """Every parameter that would get a gradient gets zero, so that no rank waits for another."""
    loss, gradients = step(kind, spoiled(make_batch(b=3, t=1), "image").scenes([2]))
    _, expected = step(kind, make_batch(t=1))
    assert loss == 0 and expected.keys() <= gradients.keys()
    assert not any(gradient.any() for gradient in gradients.values())


def test_a_pixel_of_depth_that_is_nan_costs_that_pixel_alone():
    batch, zero = make_batch(b=2, t=1), make_batch(b=2, t=1)
    batch.depths[1, 0, 0, 16, 16], zero.depths[1, 0, 0, 16, 16] = torch.nan, 0
    for kind in (GaussianReconstruction, GeometryPretraining):
        assert step(kind, batch)[0] == step(kind, zero)[0] > 0
