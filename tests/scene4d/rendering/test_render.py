"""Rendering of the framework's own types, over leading axes."""

import pytest
import torch

from scene4d.rendering import rasterize, render, render_gaussians
from scene4d.types import Cameras, Gaussians


def make_gaussians(*leading):
    g = torch.Generator().manual_seed(1)
    n = 25
    return Gaussians(
        means=torch.randn(*leading, n, 3, generator=g) * 0.5,
        quats=torch.nn.functional.normalize(torch.randn(*leading, n, 4, generator=g), dim=-1),
        scales=0.05 + 0.1 * torch.rand(*leading, n, 3, generator=g),
        opacities=torch.rand(*leading, n, generator=g),
        colors=torch.rand(*leading, n, 3, generator=g),
    )


def make_cameras(*leading):
    c2w = torch.eye(4).repeat(*leading, 1, 1)
    c2w[..., 2, 3] = -3 - torch.rand(*leading, generator=torch.Generator().manual_seed(2))
    intrinsics = torch.tensor([[14.0, 0, 6], [0, 14, 5], [0, 0, 1]]).repeat(*leading, 1, 1)
    return Cameras(c2w, intrinsics)


def test_every_timestep_and_view_is_the_rasterizers_own_picture():
    gaussians, cameras = make_gaussians(2, 3), make_cameras(2, 1, 4)
    images, depths, alphas = render_gaussians(
        gaussians, cameras, 10, 12, background=(0.2, 0.4, 0.6), depth=True
    )
    assert images.shape == (2, 3, 4, 3, 10, 12)
    assert depths.shape == alphas.shape == (2, 3, 4, 10, 12)
    one, camera = gaussians[1, 2], cameras[1, 0]
    expected, alpha, _ = rasterize(
        one.means, one.quats, one.scales, one.opacities, one.colors, camera.viewmats, camera.intrinsics,
        12, 10, backgrounds=torch.tensor([0.2, 0.4, 0.6]).expand(4, 3), render_mode="RGB+ED",
    )  # fmt: skip
    assert torch.allclose(images[1, 2].permute(0, 2, 3, 1), expected[..., :3], atol=1e-6)
    assert torch.allclose(depths[1, 2], expected[..., 3], atol=1e-5)
    assert torch.allclose(alphas[1, 2], alpha[..., 0], atol=1e-6)
    assert not torch.allclose(images[1, 1], images[1, 2])


def test_without_leading_axes_and_with_cameras_of_every_timestep():
    single = render_gaussians(make_gaussians(), make_cameras(3), 10, 12, depth=True)
    assert [x.shape for x in single] == [(3, 3, 10, 12), (3, 10, 12), (3, 10, 12)]
    moving = render_gaussians(make_gaussians(), make_cameras(5, 1), 10, 12)[0]
    assert moving.shape == (5, 1, 3, 10, 12)
    assert not torch.allclose(moving[0], moving[1])


def test_white_background_by_default_and_gradients_to_cameras():
    gaussians, cameras = make_gaussians(), make_cameras(1)
    cameras.c2w.requires_grad_()
    images, _, alphas = render_gaussians(gaussians, cameras, 10, 12)
    assert (images[..., 0, 0] > 0.99).all() == (alphas[..., 0, 0] < 0.01).all()
    images.sum().backward()
    assert cameras.c2w.grad[0, :3].abs().max() > 0


def test_depth_is_drawn_only_when_it_is_asked_for(monkeypatch):
    modes = []
    monkeypatch.setattr(
        render, "rasterize", lambda *x, **y: modes.append(y["render_mode"]) or rasterize(*x, **y)
    )
    gaussians, cameras = make_gaussians(2), make_cameras(1, 3)
    plain = render_gaussians(gaussians, cameras, 10, 12)
    asked = render_gaussians(gaussians, cameras, 10, 12, depth=True)
    assert modes == ["RGB", "RGB+ED"] and plain.depths is None and asked.depths.max() > 1
    assert torch.equal(plain.images, asked.images) and torch.equal(plain.alphas, asked.alphas)


@pytest.mark.parametrize("at_once", [1, 150, 2**24])  # one set of 25 Gaussians x 2 cameras, three, all
def test_sets_are_drawn_in_one_call_up_to_a_number(monkeypatch, at_once):
    calls = []
    monkeypatch.setattr(render, "AT_ONCE", at_once)
    monkeypatch.setattr(render, "rasterize", lambda *x, **y: calls.append(len(x[0])) or rasterize(*x, **y))
    gaussians, cameras = make_gaussians(2, 2), make_cameras(2, 1, 2)
    found = render_gaussians(gaussians, cameras, 10, 12).images
    assert calls == {1: [1] * 4, 150: [3, 1]}.get(at_once, [4])
    expected = render_gaussians(gaussians[1, 0], cameras[1, 0], 10, 12).images
    assert found.shape == (2, 2, 2, 3, 10, 12) and torch.equal(found[1, 0], expected)


def test_cameras_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"cameras \(2, 4\) do not fit Gaussians \(3,\)"):
        render_gaussians(make_gaussians(3), make_cameras(2, 4), 10, 12)
