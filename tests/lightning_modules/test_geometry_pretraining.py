"""Training of depth and cameras from scratch."""

from types import SimpleNamespace

import pytest
import torch
from textured_wall import make_batch, make_network

from lightning_modules.geometry_pretraining import GeometryPretraining
from scene4d.losses import CameraLoss, ConfidenceLoss, DepthLoss, MatchingLoss, PointLoss


def build(losses):
    module = GeometryPretraining(make_network, losses, lambda p: torch.optim.AdamW(p, lr=3e-3))
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value})
    module.log_dict = lambda values, **_: logged.update(values)
    module.trainer = SimpleNamespace(
        accumulate_grad_batches=1, global_step=0, distributed_sampler_kwargs=None
    )  # fmt: skip
    module.configure_model()
    return module, logged


def test_training_lowers_its_loss():
    module, logged = build([CameraLoss(5.0), DepthLoss(1.0), ConfidenceLoss(0.05), MatchingLoss(0.2)])
    optimizer, batch, values = module.configure_optimizers(), make_batch(), []
    for _ in range(12):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]
    names = ("loss", "camera", "depth", "confidence", "matching", "match_accuracy", "rotation_deg")
    assert logged.keys() >= {"train/loss", "train/match_accuracy", "train/rotation_deg"}  # in the bar
    assert module.figures.take().keys() >= {f"train/{name}" for name in names}


def test_the_pairs_that_are_matched_depend_on_the_step_alone():
    module, _ = build([MatchingLoss()])
    batch, losses = make_batch(t=1), {}
    for step in (0, 1, 2, 3, 4, 0):
        module.trainer.global_step = step
        torch.rand(step + 1)  # moves the global generator
        losses.setdefault(step, []).append(module.training_step(batch, 0).item())
    assert losses[0][0] == losses[0][1] and len({values[0] for values in losses.values()}) == 2


def test_a_loss_without_its_head_is_named():
    with pytest.raises(ValueError, match=r"PointLoss .* needs a point head"):
        build([PointLoss()])[0].training_step(make_batch(), 0)


def test_held_out_scenes_have_errors_and_a_repeated_one_counts_once():
    module, logged = build([DepthLoss()])
    module.on_validation_epoch_start()
    for batch in (make_batch(), make_batch()):  # a second rank may have the same scene again
        module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    (source,) = set(make_batch().source)
    assert {
        f"val/{name}_{source}" for name in ("rotation_deg", "rotation_deg_identity", "depth_abs_rel")
    } <= set(logged)
    assert {row.count for row in module.results["geometry"]} == {len(make_batch().keys)}
