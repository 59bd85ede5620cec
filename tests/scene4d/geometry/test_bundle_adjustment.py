import pytest
import torch

from scene4d.geometry.bundle_adjustment import Correspondences, adjust, chain_cameras
from scene4d.geometry.cameras import relative_to_first, transform
from scene4d.geometry.rotations import rotation_angle
from scene4d.geometry.trajectories import arc
from scene4d.types import Cameras

FOCAL, SIZE = 85.0, 64


def make_problem(noise=0.3, depth_noise=0.1, outliers=0.1, n=2, views=4, points=200):
    """Points of a bumpy ball, found in all views up to noise, a few of them somewhere else."""
    torch.manual_seed(0)
    c2w = relative_to_first(torch.stack([arc(views, 30.0 * k, 40, 20, 3, 2.5) for k in range(n)]))
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]).repeat(n, views, 1, 1)
    pixels = 12 + torch.rand(n, views, points, 2) * (SIZE - 24)
    depths = 1.7 + torch.rand(n, views, points)
    rays = torch.cat([(pixels - SIZE / 2) / FOCAL, torch.ones(n, views, points, 1)], -1)
    world = transform(c2w, (rays * depths[..., None])[:, :, None])[:, :, 0]
    local = torch.einsum("nwij,nvpj->nvwpi", torch.linalg.inv(c2w)[..., :3, :3], world)
    local = local + torch.linalg.inv(c2w)[:, None, :, None, :3, 3]
    found = local[..., :2] / local[..., 2:] * FOCAL + SIZE / 2
    guess = depths * (torch.randn_like(depths) * depth_noise).exp()
    others = local[..., 2] * (torch.randn(n, views, views, points) * depth_noise).exp()
    wrong = torch.rand(found.shape[:-1]) < outliers
    found = torch.where(
        wrong[..., None], torch.rand_like(found) * SIZE, found + noise * torch.randn_like(found)
    )
    weights = (~torch.eye(views, dtype=torch.bool))[None, :, :, None].expand(found.shape[:-1]).float()
    return Cameras(c2w, intrinsics), depths, Correspondences(pixels, guess, found, weights), others


def rotation_errors(c2w, truth):
    return rotation_angle(c2w[:, 1:, :3, :3], truth[:, 1:, :3, :3])


def test_cameras_and_depths_are_found_from_noisy_matches():
    truth, depths, matches, others = make_problem()
    start = chain_cameras(matches, others, truth.intrinsics)
    before = rotation_errors(start, truth.c2w)
    wrong_focal = Cameras(start, truth.intrinsics * torch.tensor([1.05, 1.05, 1])[:, None])
    cameras, found, cost, known = adjust(wrong_focal, matches)
    after = rotation_errors(cameras.c2w, truth.c2w)
    assert after.max() < 1.2 and after.mean() < 0.5 * before.mean()
    assert torch.equal(cameras.c2w[:, 0], start[:, 0])
    ratio = found / depths
    ratio = ratio / ratio.median()  # the unit of length is the guess's
    assert (ratio.log().abs()).median() < 0.02 and (known > 0).all()
    assert cameras.intrinsics[0, 0, 0, 0].item() == pytest.approx(FOCAL, rel=0.04)
    assert cost.max() < adjust(wrong_focal, matches, steps=0)[2].min()


def test_known_cameras_stay_and_depth_is_triangulated():
    truth, depths, matches, _ = make_problem()
    cameras, found, _, _ = adjust(truth, matches, steps=5, fixed_cameras=True)
    assert cameras is truth
    before, after = ((x / depths).log().abs().mean() for x in (matches.depths, found))
    assert after < 0.3 * before


def test_without_matches_nothing_moves():
    truth, _, matches, _ = make_problem()
    matches.weights = torch.zeros_like(matches.weights)
    cameras, found, cost, known = adjust(truth, matches, steps=3)
    assert torch.allclose(cameras.c2w, truth.c2w, atol=1e-5) and torch.allclose(found, matches.depths)
    assert known.max() == 0 and cost.max() == 0
