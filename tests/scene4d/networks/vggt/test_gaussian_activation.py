import torch

from scene4d.geometry.cameras import unproject
from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.networks.vggt import gaussians_from_maps
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS, smooth_offset
from scene4d.types import Cameras


def make_scene(t=2, size=6, focal=12.0):
    torch.manual_seed(0)
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[0, 1, :3, :3] = quaternion_to_matrix(torch.tensor([0.9, 0.1, 0.4, 0.0]))
    c2w[0, 1, :3, 3] = torch.tensor([1.0, 0, 0.5])
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).repeat(1, 2, 1, 1)
    images = torch.rand(1, 2, t, 3, size, size)
    depths = 1 + torch.rand(1, 2, t, size, size)
    return images, depths, Cameras(c2w, intrinsics)


def test_untrained_head_puts_pixel_sized_splats_on_the_surface():
    images, depths, cameras = make_scene()
    raw = torch.zeros(1, 2, 2, GAUSSIAN_CHANNELS, 6, 6)
    gaussians = gaussians_from_maps(raw, images, depths, cameras, pixel_scale=0.3, opacity_shift=2.0)
    assert gaussians.means.shape == (1, 2, 72, 3)
    shared = Cameras(cameras.c2w[:, :, None], cameras.intrinsics[:, :, None])
    surface = unproject(depths, shared).transpose(1, 2).reshape(1, 2, 72, 3)
    assert torch.allclose(gaussians.means, surface, atol=1e-6)
    footprint = depths.transpose(1, 2).reshape(1, 2, 72, 1) / 12
    assert torch.allclose(gaussians.scales, (0.3 * footprint).expand(-1, -1, -1, 3))
    assert torch.allclose(gaussians.opacities, torch.tensor(2.0).sigmoid().expand(1, 2, 72))
    colors = images.permute(0, 2, 1, 4, 5, 3).reshape(1, 2, 72, 3)
    assert torch.equal(gaussians.colors, colors)


def test_rotations_turn_with_the_camera():
    images, depths, cameras = make_scene()
    raw = torch.randn(1, 2, 2, GAUSSIAN_CHANNELS, 6, 6)
    raw[:, 1] = raw[:, 0]
    quats = gaussians_from_maps(raw, images, depths, cameras).quats
    assert torch.allclose(quats.norm(dim=-1), torch.ones(1, 2, 72), atol=1e-6)
    matrices = quaternion_to_matrix(quats).unflatten(2, (2, 36))
    turned = cameras.c2w[0, 1, :3, :3] @ matrices[:, :, 0]  # the first camera is the identity
    assert torch.allclose(turned, matrices[:, :, 1], atol=1e-5)


def test_extreme_outputs_stay_finite_in_range_and_trainable():
    images, depths, cameras = make_scene()
    for size in (0.0, 100.0, -100.0):
        raw = torch.full((1, 2, 2, GAUSSIAN_CHANNELS, 6, 6), size, requires_grad=True)
        gaussians = gaussians_from_maps(raw, images, depths, cameras)
        total = sum(
            x.sum() for x in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
        )
        total.backward()
        assert total.isfinite() and raw.grad.isfinite().all()
        assert ((gaussians.opacities >= 0) & (gaussians.opacities <= 1)).all() and (
            gaussians.scales > 0
        ).all()


def test_offset_is_splatt3rs_with_a_gradient_at_zero():
    raw = torch.tensor([[3.0, 0, 4.0]])
    expected = raw / 5 * (torch.tensor(5.0 - 6).exp() - torch.tensor(-6.0).exp())
    assert torch.allclose(smooth_offset(raw, 6.0), expected, atol=1e-5)
    zero = torch.zeros(1, 3, requires_grad=True)
    smooth_offset(zero, 6.0).sum().backward()
    assert torch.allclose(zero.grad, torch.full((1, 3), -6.0).exp(), rtol=1e-3)
