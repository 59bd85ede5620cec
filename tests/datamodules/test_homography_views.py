from random import Random

import pytest
import torch

from datamodules.homography import HomographyViews

STRONG = {"rotation": 30.0, "scale": 0.4, "shear": 0.3, "perspective": 0.3, "translation": 0.4}


def smooth_video(frames=3, height=96, width=96):
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, 0.5 * (x + y)]).expand(frames, 3, height, width).clone()


@pytest.mark.parametrize("stored", [(96, 96), (60, 128), (128, 60)])
@pytest.mark.parametrize("output", [(64, 64), (24, 48)])
def test_no_pixel_comes_from_outside(stored, output):
    """Every pixel centre of every view maps into the video, in units of half the short side."""
    rows, columns = torch.meshgrid(torch.arange(output[0]), torch.arange(output[1]), indexing="ij")
    pixels = torch.stack([2 * columns + 1 - output[1], 2 * rows + 1 - output[0]], -1).flatten(0, 1) / min(
        output
    )
    pixels = torch.cat([pixels, torch.ones(len(pixels), 1)], -1)
    half = torch.tensor([stored[1], stored[0]]) / min(stored)
    for seed in range(40):
        mapped = torch.einsum(
            "vij,pj->vpi", HomographyViews(**STRONG).path(Random(seed), output, stored), pixels
        )
        assert (mapped[..., 2] > 0).all()
        assert ((mapped[..., :2] / mapped[..., 2:]).abs() < half).all(), seed


def test_zoom_fits_tightly():
    """Not only no borders: the widest zoom touches the border of the video (it does not crop needlessly)."""
    for seed in range(10):
        views = HomographyViews(zoom=[1.0, 1.0])
        path = views.path(Random(seed), (64, 64), (96, 96))
        corners = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1]])
        mapped = torch.einsum("vij,kj->vki", path, corners)
        reach = (mapped[..., :2] / mapped[..., 2:]).abs().max()
        assert 0.97 < reach <= 1.0


def test_first_view_is_an_upright_crop_and_path_is_smooth():
    for seed in range(10):
        path = HomographyViews(views=8).path(Random(seed), (64, 64), (96, 96))
        first = path[0]
        assert torch.allclose(first, torch.diag(torch.tensor([first[0, 0], first[0, 0], 1.0])), atol=1e-6)
        first_difference, second_difference = path.diff(dim=0), path.diff(n=2, dim=0)
        assert second_difference.abs().max() < first_difference.abs().max()


def test_all_frames_of_a_view_get_the_same_homography():
    video = smooth_video(4) * torch.tensor([1.0, 0.8, 0.6, 0.4])[:, None, None, None]
    views = HomographyViews()
    warped = views.warp(video, views.path(Random(3), (64, 64), (96, 96)), (64, 64))
    assert warped.shape == (8, 4, 3, 64, 64)
    for frame, factor in enumerate([1.0, 0.8, 0.6, 0.4]):
        assert torch.allclose(warped[:, frame], warped[:, 0] * factor, atol=1e-5)
    assert all((warped[k] - warped[k + 1]).abs().max() > 0.005 for k in range(7))


def test_warp_follows_the_homography():
    """The coordinate image, warped, shows the coordinates that the matrices say."""
    views = HomographyViews(**STRONG)
    path = views.path(Random(5), (64, 64), (96, 96))
    shown = views.warp(smooth_video(1), path, (64, 64))[:, 0, :2]
    centre = torch.tensor([(40 + 0.5) / 32 - 1, (20 + 0.5) / 32 - 1, 1.0])
    mapped = path @ centre
    pixel = (mapped[:, :2] / mapped[:, 2:] + 1) * 48 - 0.5
    assert torch.allclose(shown[:, :, 20, 40], pixel / 95, atol=1e-4)


def test_white_stays_white():
    views = HomographyViews(**STRONG)
    white = views.warp(torch.ones(1, 3, 96, 96), views.path(Random(0), (64, 64), (96, 96)), (64, 64))
    assert torch.allclose(white, torch.ones_like(white))


@pytest.mark.parametrize("bad", [{"views": 0}, {"rotation": 90}, {"shear": 2}, {"zoom": [0.5, 1]}])
def test_bounds_are_checked(bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=name):
        HomographyViews(**bad)
