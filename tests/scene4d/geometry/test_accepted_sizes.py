"""One rule brings images of any size to a reconstruction network, and its results back."""

import logging
from dataclasses import replace

import pytest
import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.evaluation.novel_views import NovelViews
from scene4d.geometry.accepted_sizes import fit_to_network
from scene4d.geometry.cameras import project
from scene4d.pipelines import Reconstructor
from scene4d.types import Cameras


@pytest.mark.parametrize("original, size", [
    ((144, 256), (294, 518)), ((288, 512), (294, 518)), ((480, 832), (294, 518)), ((64, 64), (518, 518)),
    ((256, 144), (518, 294)), ((1080, 1920), (294, 518)), ((9, 4000), (14, 518)),
])  # fmt: skip
def test_sizes_of_vggt(original, size):
    fit = fit_to_network(*original, 14, 518)
    assert fit.size == size and fit.original == original
    lost = [(a - b) * c / b for a, b, c in zip(original, fit.part, size)]
    assert min(lost) == 0 and max(lost) <= 14 or original == (9, 4000)
    assert fit.top == (original[0] - fit.part[0]) // 2 and fit.left == (original[1] - fit.part[1]) // 2


@pytest.mark.parametrize("size, patch", [((294, 518), 14), ((56, 56), 14), ((144, 256), 8), ((64, 64), 8)])
def test_sizes_that_are_accepted_stay(size, patch):
    fit, images = fit_to_network(*size, patch, 518), torch.rand(1, 1, 1, 3, *size)
    assert fit.changes_nothing and fit.images(images) is images
    depths, cameras = images[:, :, :, 0], Cameras(torch.eye(4), torch.eye(3))
    assert fit.depths(depths) is depths and fit.maps_back(depths) is depths
    assert fit.cameras(cameras) is cameras and fit.cameras_back(cameras) is cameras


def test_it_is_said_once_for_each_size(caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            fit_to_network(145, 256, 14, 518)
    assert [x.message for x in caplog.records] == [
        "images of 145 x 256: the network gets their middle 145 x 255 at 294 x 518; "
        "cameras and depths are mapped back"
    ]


def spot_position(images):
    """Centre of mass of a bright spot in (u, v), pixel centres at +0.5."""
    weights = images[0] / images[0].sum()
    rows, columns = (torch.arange(n) + 0.5 for n in weights.shape)
    return torch.stack([(weights.sum(0) * columns).sum(), (weights.sum(1) * rows).sum()])


def test_a_point_is_seen_where_the_fitted_camera_projects_it():
    fit = fit_to_network(90, 200, 14, 126)
    K = torch.tensor([[150.0, 0, 97], [0, 140, 47], [0, 0, 1]])
    camera, point = Cameras(torch.eye(4), K), torch.tensor([[0.3, -0.1, 1.5]])
    u, v = project(point, camera)[0][0]
    rows, columns = torch.arange(90)[:, None] + 0.5, torch.arange(200) + 0.5
    spot = torch.exp(-((columns - u).square() + (rows - v).square()) / 18).expand(3, -1, -1)
    assert torch.allclose(spot_position(spot), torch.stack([u, v]), atol=1e-3)
    seen = spot_position(fit.images(spot[None, None])[0, 0])
    assert torch.allclose(seen, project(point, fit.cameras(camera))[0][0], atol=0.02)
    assert not torch.allclose(seen, project(point, camera)[0][0], atol=5)
    assert torch.allclose(fit.cameras_back(fit.cameras(camera)).intrinsics, K, atol=1e-4)


def test_depths_come_back_to_their_pixels_and_are_unknown_where_the_image_was_cut():
    fit = fit_to_network(64, 97, 8, 64)
    assert fit.size == (40, 64) and fit.part == (61, 97)
    depths = torch.where(torch.arange(97) < 50, 1.0, 3.0).expand(2, 64, 97)
    seen = fit.depths(depths)
    assert seen.shape == (2, 40, 64) and set(seen.unique().tolist()) == {1.0, 3.0}
    back = fit.maps_back(seen)
    assert back.shape == (2, 64, 97) and (back[:, :1] == 0).all() and (back[:, 62:] == 0).all()
    wrong = (back[:, 1:62] != depths[:, 1:62]).float().mean((0, 1))
    assert wrong.sum() <= 1  # one column beside the edge at most


def odd_batch(size=(42, 45), **shape):
    """The wall at a size that the tiny network does not accept, larger and with other proportions."""
    batch = make_batch(**shape)
    images = torch.nn.functional.interpolate(batch.images.flatten(0, 2), size, mode="bilinear")
    K = batch.cameras.intrinsics.clone()
    K[..., 0, :] *= size[1] / SIZE
    K[..., 1, :] *= size[0] / SIZE
    depths = torch.nn.functional.interpolate(batch.depths.flatten(0, 1), size, mode="nearest-exact")
    return replace(
        batch, images=images.unflatten(0, batch.images.shape[:3]), cameras=Cameras(batch.cameras.c2w, K),
        depths=depths.unflatten(0, batch.depths.shape[:2]),
    )  # fmt: skip


@torch.no_grad()
def test_a_scene_of_images_of_another_size_is_drawn_at_their_size():
    """Every pixel's Gaussian has its colour, so the scene from the first camera is the first image."""
    batch, pipeline = odd_batch(t=1), Reconstructor(make_network())
    scene = pipeline(batch)
    assert scene.depths.shape == (1, 5, 1, 42, 45) and scene.gaussians.means.shape == (1, 1, 5 * 32 * 32, 3)
    first = scene.gaussians.apply(lambda x: x[:, :, : 32 * 32])
    drawn = pipeline.render(first, scene.cameras[:, :1], (42, 45), scene.background)[0, 0, 0]
    fit = pipeline.fit(batch.images)
    inside = drawn[:, 2:-2, fit.left + 2 : fit.left + fit.part[1] - 2]
    truth = batch.images[0, 0, 0][:, 2:-2, fit.left + 2 : fit.left + fit.part[1] - 2]
    assert fit.part[1] < 45 and (inside - truth).abs().mean() < 0.04
    assert (
        inside[..., 3:] - truth[..., :-3]
    ).abs().mean() > 0.08  # three pixels beside, it is another picture


@torch.no_grad()
def test_known_cameras_are_those_of_the_given_images():
    batch, pipeline = odd_batch(t=1), Reconstructor(make_network())
    scene = pipeline(batch.images, batch.cameras)
    assert torch.allclose(scene.cameras.intrinsics, batch.cameras.intrinsics, atol=1e-4)
    fitted = pipeline.fit(batch.images).batch(batch)
    same = pipeline(fitted.images, fitted.cameras)
    assert torch.equal(scene.gaussians.means, same.gaussians.means) and same.depths.shape[-2:] == (32, 32)


@torch.no_grad()
def test_target_cameras_of_images_of_another_size():
    batch, pipeline = odd_batch(t=1), Reconstructor(make_network())
    fit = pipeline.fit(batch.images)
    fitted = fit.images(batch.images)
    found = pipeline.pose_free_cameras(batch.images, pipeline(batch.images[:, :3]))
    expected = pipeline.pose_free_cameras(fitted, pipeline(fitted[:, :3]))
    assert torch.allclose(found.c2w, expected.c2w, atol=0.02)
    assert torch.allclose(found.intrinsics, fit.cameras_back(expected).intrinsics, atol=1e-3)


def test_scores_are_those_of_the_size_that_the_network_sees():
    pipeline, batch = Reconstructor(make_network()), odd_batch(t=1)
    found = []
    for each in (batch, pipeline.fit(batch.images).batch(batch)):
        evaluation = NovelViews()
        evaluation.start(torch.device("cpu"))
        evaluation.add(pipeline, each)
        found.append({(x.method, x.score): x.value for x in evaluation.compute()})
    assert found[0] == found[1] and found[0]["given_cameras", "psnr"] > 5
