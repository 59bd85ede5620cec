"""Smaller sets of Gaussians: what goes, what stays to the bit, what is merged, and that the picture stays."""

from dataclasses import replace

import pytest
import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.gaussians import Pruning
from scene4d.gaussians.voxels import covariances, merge_voxels
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS, gaussians_from_maps
from scene4d.pipelines import Reconstructor
from scene4d.types import Gaussians

NAMES = ("means", "quats", "scales", "opacities", "colors")


def make_set(means, opacities, scale=0.1) -> Gaussians:
    n = len(means)
    quats = torch.nn.functional.normalize(
        torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    scales = scale * torch.tensor([1.0, 2, 3]).expand(n, 3)
    return Gaussians(torch.tensor(means), quats, scales, torch.tensor(opacities), torch.rand(n, 3))


def test_the_default_is_the_same_object():
    gaussians = make_set([[0.0, 0, 0]], [0.5])
    assert Pruning()(gaussians) is gaussians
    assert Pruning().hide(gaussians, torch.ones(1, 1, 1, 1, 1)) is gaussians


def test_uncertain_pixels_become_invisible_in_place():
    confidence = torch.tensor([[1.0, 4, 2], [3, 3, 9]]).view(1, 2, 1, 1, 3)  # two views of three pixels
    gaussians = make_set([[0.0, 0, 0]] * 6, [0.5] * 6).apply(lambda x: x[None, None])
    for share, expected in ((0.34, [0, 1, 0, 1, 1, 1]), (0.5, [0, 1, 0, 1, 1, 1]), (0.7, [0, 1, 0, 0, 0, 1])):
        hidden = Pruning(least_confident=share).hide(gaussians, confidence)
        assert (hidden.opacities[0, 0] > 0).int().tolist() == expected
        assert torch.equal(hidden.means, gaussians.means)
    equal = Pruning(least_confident=0.9).hide(gaussians, torch.ones_like(confidence))
    assert torch.equal(equal.opacities, gaussians.opacities)


def test_sets_of_a_batch_keep_their_axes_and_what_is_opaque():
    one = make_set([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [0.9, 0.05, 0.8])
    two = make_set([[0.0, 0, 1], [1, 0, 1], [2, 0, 1]], [0.01, 0.05, 0.8])
    both = Gaussians(*(torch.stack([getattr(x, k) for x in (one, two)])[None] for k in NAMES))
    kept = Pruning(opacity=0.1)(both)
    assert kept.opacities.shape == (1, 2, 2)
    assert torch.equal(kept.means[0, 0], one.means[[0, 2]]) and torch.equal(kept.means[0, 1, 0], two.means[2])
    assert torch.equal(kept.opacities[0], torch.tensor([[0.9, 0.8], [0.8, 0.0]]))


def test_a_voxel_becomes_the_gaussian_with_the_moments_of_its_mixture():
    gaussians = make_set([[0.0, 0, 0], [0.4, 0.1, 0.2], [5, 5, 5]], [0.6, 0.3, 0.7])
    merged = merge_voxels(gaussians, 1.0)
    assert len(merged.means) == 2
    weights = torch.tensor([2 / 3, 1 / 3])
    mean = weights @ gaussians.means[:2]
    offset = gaussians.means[:2] - mean
    spread = covariances(gaussians)[:2] + offset[:, :, None] * offset[:, None]
    torch.testing.assert_close(merged.means[0], mean)
    torch.testing.assert_close(covariances(merged)[0], torch.einsum("n,nij->ij", weights, spread))
    torch.testing.assert_close(merged.colors[0], weights @ gaussians.colors[:2])
    for name in NAMES:  # alone in its voxel
        assert torch.equal(getattr(merged, name)[1], getattr(gaussians, name)[2])


def test_two_copies_of_one_gaussian_become_it():
    gaussians = make_set([[0.2, 0.1, 0.3]], [0.3])
    twice = Gaussians(*(torch.cat([getattr(gaussians, k)] * 2) for k in NAMES))
    merged = merge_voxels(twice, 0.5)
    torch.testing.assert_close(covariances(merged), covariances(gaussians))
    torch.testing.assert_close(merged.opacities, torch.tensor([0.6]))
    assert merge_voxels(replace(twice, opacities=torch.ones(2)), 0.5).opacities.max() < 1


def test_merging_at_the_width_of_a_pixel_keeps_the_picture():
    """Three views of a wall at depth 2, focal length 40: a pixel is .05 wide, and merging leaves far fewer."""
    batch, pipeline = make_batch(t=1, endless=True), Reconstructor(make_network())
    raw = torch.zeros(1, 3, 1, GAUSSIAN_CHANNELS, SIZE, SIZE)
    raw[:, :, :, 3] = 2
    gaussians = gaussians_from_maps(raw, batch.images[:, :3], batch.depths[:, :3], batch.cameras[:, :3])
    white = torch.ones(1, 3)
    before = pipeline.render(gaussians, batch.cameras[:, 3:], (SIZE, SIZE), white)
    for side, share, least in ((0.025, 0.8, 32), (0.05, 0.45, 27)):
        merged = Pruning(voxel=side)(gaussians)
        after = pipeline.render(merged, batch.cameras[:, 3:], (SIZE, SIZE), white)
        assert merged.opacities.shape[-1] < share * gaussians.opacities.shape[-1]
        assert -10 * (after - before).square().mean().log10() > least


def test_what_cannot_be_is_named():
    for settings, what in (({"least_confident": 1.0}, r"\[0, 1\), got 1.0"), ({"opacity": 2.0}, "got 2.0"),
                           ({"voxel": -1.0}, "pruning.voxel .* got -1.0")):  # fmt: skip
        with pytest.raises(ValueError, match=what):
            Pruning(**settings)
    with pytest.raises(ValueError, match="no Gaussian of set 0: opacity 0.9 against at most 0.5"):
        Pruning(opacity=0.9)(make_set([[0.0, 0, 0]], [0.5]))


def test_a_finished_scene_is_pruned_and_a_training_is_not():
    batch, network = make_batch(targets=0, t=2), make_network()
    whole, smaller = Reconstructor(network), Reconstructor(network, pruning=Pruning(0.5, voxel=0.02))
    a, b = whole(batch.images), smaller(batch.images)
    assert b.gaussians.opacities.shape[-1] <= a.gaussians.opacities.shape[-1] // 2 + 1
    assert b.gaussians.opacities.shape[:2] == (1, 2) and b.gaussians.blurred
    prediction = network(batch.images)
    located = smaller.locate(prediction)
    assert (smaller.place(prediction, batch.images, located).opacities > 0).all()
