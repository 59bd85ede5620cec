"""The pipeline without a training: a user's few lines, gradients where they belong, nothing computed twice."""

from pathlib import Path

import pytest
import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.gaussians import Pruning
from scene4d.geometry.cameras import camera_spread, scale_cameras
from scene4d.networks.vggt import match_refinement
from scene4d.pipelines import Reconstructor
from scene4d.types import Gaussians, Reconstruction

ROOT = Path(__file__).parents[3]


def test_a_grid_becomes_a_scene():
    batch = make_batch(b=2)
    batch.cameras = batch.depths = None
    scene = Reconstructor(make_network())(batch)
    assert isinstance(scene, Reconstruction) and scene.cameras.c2w.shape == (2, 5, 4, 4)
    assert (
        scene.gaussians.means.shape == (2, 2, 5 * SIZE * SIZE, 3) and not scene.gaussians.means.requires_grad
    )
    assert scene.keys == ["scene0", "scene1"] and torch.equal(scene.frame_times, batch.frame_times)
    assert torch.equal(scene.background, torch.ones(2, 3))
    assert scene.to(dtype=torch.float64).gaussians.means.dtype == torch.float64


def test_images_alone_are_enough():
    scene = Reconstructor(make_network())(make_batch().images)
    assert scene.frame_times is None and scene.keys == []


@torch.no_grad()
def test_five_lines_with_the_committed_weights():
    """As in a notebook: network, weights, pipeline, scene, a new view."""
    from scene4d.networks.pretrained import load_initial_weights
    from scene4d.networks.vggt import ReconstructionNetwork

    network = ReconstructionNetwork(
        image_size=64, patch_size=8, dim=160, heads=5, depth=4, embedder_depth=2, registers=2, layer_scale=1.0,
        camera_depth=1, camera_heads=5, camera_iterations=3, camera_mlp_ratio=2.0, layers=[0, 1, 2, 3],
        head_channels=[32, 48, 64, 64], head_features=32, head_hidden=24, image_skip=8, head_chunk=0,
        point_head=False, temporal_mlp_ratio=0, match_views=True, match_width=64,
    )  # fmt: skip
    weights = ROOT / "assets" / "small" / "weights"
    files = [str(weights / name) for name in ("geometry.safetensors", "reconstruction.safetensors")]
    assert load_initial_weights(network, files) == []
    reconstructor = Reconstructor(network, pixel_scale=0.12, background=None, refine=True)
    scene = reconstructor(
        make_batch(inputs=2, targets=0, t=1).images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    )
    view = reconstructor.render(scene.gaussians, scene.cameras[:, :1], (64, 64), scene.background)
    assert view.shape == (1, 1, 1, 3, 64, 64) and view.isfinite().all()


@torch.no_grad()
def test_background_is_the_colour_around_the_scene():
    images = make_batch().images
    reconstructor = Reconstructor(make_network(), background=None)
    assert torch.equal(reconstructor.background_of(images), torch.ones(1, 3))
    images[:, :, :, 1, [0, -1]] = images[:, :, :, 1, :, [0, -1]] = 0.25
    assert torch.allclose(reconstructor.background_of(images), torch.tensor([[1.0, 0.25, 1.0]]))
    blue = Reconstructor(make_network(), background=(0.0, 0.0, 1.0))
    assert torch.equal(blue.background_of(images), torch.tensor([[0.0, 0.0, 1.0]]))


def test_a_network_without_the_head_or_the_matcher_is_refused():
    images = make_batch(t=1).images
    network = make_network()
    network.gaussian_head = None
    with pytest.raises(ValueError, match="gaussian_head: true"):
        Reconstructor(network)(images)
    network.aggregator.matcher = None
    with pytest.raises(ValueError, match="match_views: true"):
        Reconstructor(network, refine=True)(images)


def test_given_cameras_are_kept_and_depth_follows_them():
    batch, network = make_batch(targets=0, t=1, endless=True), make_network()
    network.aggregator.matcher.log_temperature.data.fill_(6.0)  # so that matches are trusted
    reconstructor = Reconstructor(network, refine=True)
    given = reconstructor(batch.images, batch.cameras)
    torch.testing.assert_close(given.cameras.c2w[..., :3, :3], batch.cameras.c2w[..., :3, :3])
    assert not torch.equal(given.depths, reconstructor(batch.images).depths)


def test_refined_depth_keeps_the_gradient_of_the_predicted():
    batch, network = make_batch(targets=0, t=1), make_network()
    reconstructor = Reconstructor(network, refine=True)
    prediction = network(batch.images)
    reconstructor.place(prediction, batch.images, reconstructor.locate(prediction)).means.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.depth_head.parameters())


def test_matches_that_are_handed_on_are_not_sought_again(monkeypatch):
    batch, network, calls = make_batch(targets=0, t=1), make_network(), []
    find = match_refinement.find_matches
    monkeypatch.setattr(match_refinement, "find_matches", lambda *x: calls.append(1) or find(*x))
    reconstructor, prediction = Reconstructor(network, refine=True), network(batch.images)
    matches = reconstructor.match(prediction)
    located = reconstructor.locate(prediction, reconstructor.find_cameras(prediction, matches), matches)
    assert len(calls) == 1
    again = reconstructor.locate(prediction)
    assert torch.equal(located.depths, again.depths) and torch.equal(located.cameras.c2w, again.cameras.c2w)


@torch.no_grad()
def test_pose_free_cameras_are_in_the_unit_of_the_scene():
    """A network whose unit of length changes from run to run gives the same cameras."""
    batch, network, runs = make_batch(), make_network(), []

    def moody(images):
        unit, prediction = float(1 + len(runs)), network(images)
        runs.append(unit)
        prediction.depths = prediction.depths * unit
        prediction.cameras = scale_cameras(prediction.cameras, torch.full((len(images),), unit))
        return prediction

    plain, changing = Reconstructor(network), Reconstructor(moody)
    expected = plain.pose_free_cameras(batch.images, plain(batch.images[:, :3]))
    found = changing.pose_free_cameras(batch.images, changing(batch.images[:, :3]))
    assert runs == [1.0, 2.0] and found.c2w.shape == (1, 2, 4, 4)
    torch.testing.assert_close(found.c2w, expected.c2w)
    assert camera_spread(expected.c2w) > 0


@torch.no_grad()
def test_invisible_pixels_do_not_set_the_unit():
    """A hole in the scene whose depth means nothing, and the case that nothing is visible at all."""
    batch, reconstructor = make_batch(t=1), Reconstructor(make_network())
    scene = reconstructor(batch.images[:, :3])
    expected = reconstructor.pose_free_cameras(batch.images, scene)
    half = SIZE * SIZE // 2 + SIZE
    scene.depths[:, 0, 0].view(1, -1)[:, :half] = 1e3
    scene.gaussians.opacities[:, 0, :half] = 0.1
    found = reconstructor.pose_free_cameras(batch.images, scene)
    ratio = camera_spread(found.c2w) / camera_spread(expected.c2w)
    assert 0.5 < ratio < 2
    scene.gaussians.opacities[:] = 0
    assert reconstructor.pose_free_cameras(batch.images, scene).c2w.isfinite().all()
    pruned = Reconstructor(make_network(), pruning=Pruning(least_confident=0.5))
    few = pruned(batch.images[:, :3])
    assert few.gaussians.means.shape[-2] < 3 * SIZE * SIZE
    assert pruned.pose_free_cameras(batch.images, few).c2w.isfinite().all()


@torch.no_grad()
def test_a_rendered_view_shows_the_background_where_nothing_is():
    nothing = Gaussians(
        means=torch.zeros(1, 1, 1, 3), quats=torch.tensor([1.0, 0, 0, 0]).expand(1, 1, 1, 4),
        scales=torch.full((1, 1, 1, 3), 1e-3), opacities=torch.zeros(1, 1, 1), colors=torch.zeros(1, 1, 1, 3),
    )  # fmt: skip
    colour = torch.tensor([[0.2, 0.4, 0.6]])
    image = Reconstructor(make_network()).render(nothing, make_batch().cameras[:, 3:], (SIZE, SIZE), colour)
    assert image.shape == (1, 2, 1, 3, SIZE, SIZE)
    torch.testing.assert_close(image, colour[0, :, None, None].expand_as(image))


@pytest.mark.parametrize("wrong", [{"background": (3.0, 0.0, -1.0)}, {"pixel_scale": 0.0}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        Reconstructor(lambda images: None, **wrong)
