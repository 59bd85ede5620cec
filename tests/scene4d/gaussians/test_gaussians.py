"""Rotations, pruning and quantisation of Gaussians."""

import math

import pytest
import torch

from scene4d.gaussians import prune_by_opacity
from scene4d.gaussians.quantization import BYTES_PER_GAUSSIAN, bounding_box, pack_gaussians, unpack_gaussians
from scene4d.geometry.rotations import quaternion_to_matrix
from scene4d.rendering import rasterize
from scene4d.types import Gaussians


def make_gaussians(count=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=0.05 + 0.2 * torch.rand(count, 3, generator=g),
        opacities=torch.rand(count, generator=g) ** 3,
        colors=torch.rand(count, 3, generator=g),
    )


def test_rotation_of_a_quarter_turn_about_z():
    half = math.sqrt(0.5)
    rotation = quaternion_to_matrix(torch.tensor([2 * half, 0, 0, 2 * half]))  # of length 2: normalised
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert torch.allclose(rotation, expected, atol=1e-6)


def test_pruning_at_the_rasterizers_threshold_changes_no_picture():
    gaussians = make_gaussians()
    kept = prune_by_opacity(gaussians, 1 / 255)
    assert 0 < len(kept.means) < len(gaussians.means)
    viewmats, Ks = torch.eye(4)[None], torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    viewmats[:, 2, 3] = 5.0
    pictures = [
        rasterize(x.means, x.quats, x.scales, x.opacities, x.colors, viewmats, Ks, 32, 32)[0]
        for x in (gaussians, kept)
    ]
    assert torch.equal(*pictures) and pictures[0].max() > 0.1
    assert len(prune_by_opacity(gaussians, 0.5).means) == int((gaussians.opacities >= 0.5).sum())


def test_pruning_refuses_batches_and_odd_thresholds():
    with pytest.raises(ValueError, match=r"\(1, 200\)"):
        prune_by_opacity(make_gaussians().apply(lambda x: x[None]), 0.1)
    with pytest.raises(ValueError, match="got 1.5"):
        prune_by_opacity(make_gaussians(), 1.5)


def test_quantisation_round_trip():
    gaussians = make_gaussians()
    low, high = bounding_box([gaussians, make_gaussians(50, seed=1)])
    data = pack_gaussians(gaussians, low, high)
    assert len(data) == 200 * BYTES_PER_GAUSSIAN
    back = unpack_gaussians(data, low, high)
    assert torch.allclose(back.means, gaussians.means, atol=float((high - low).max()) / 65535)
    assert torch.allclose(back.scales, gaussians.scales, rtol=1e-3, atol=0)
    assert torch.allclose(back.quats, gaussians.quats, atol=1e-4)
    assert torch.allclose(back.colors, gaussians.colors, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(back.opacities, gaussians.opacities, atol=0.5 / 255 + 1e-6)


def test_quantisation_of_nothing_of_one_plane_and_of_cut_data():
    empty = make_gaussians(0)
    low, high = bounding_box([empty])
    assert pack_gaussians(empty, low, high) == b"" and len(unpack_gaussians(b"", low, high).means) == 0
    flat = make_gaussians(9)
    flat.means[:, 2] = 0.7
    low, high = bounding_box([flat])
    assert torch.allclose(
        unpack_gaussians(pack_gaussians(flat, low, high), low, high).means, flat.means, atol=1e-4
    )
    with pytest.raises(ValueError, match="25 bytes"):
        unpack_gaussians(bytes(25), low, high)
