"""The rasterizer's blur inside exported Gaussians: files look the same at every size in every viewer."""

import numpy as np
import pytest
import torch

from scene4d.gaussians import write_ply
from scene4d.gaussians.blur import LOW_PASS, with_blur
from scene4d.gaussians.ply import read_ply
from scene4d.networks.vggt.gaussian_activation import GAUSSIAN_CHANNELS, gaussians_from_maps
from scene4d.rendering import rasterize, render_gaussians
from scene4d.types import Cameras, Gaussians

SIZE, FOCAL, DEPTH = 64, 70.0, 2.0
BEFORE_THE_BLUR = 0.09  # standard deviation of the demo's Gaussians, in pixels


def wall() -> tuple[Gaussians, Cameras]:
    """An opaque wall as two views see it, with one tiny Gaussian for each pixel, `1 1 (v h w)`."""
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[:, 1, 0, 3] = 0.1
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    cameras = Cameras(c2w, intrinsics.expand(1, 2, 3, 3))
    images = torch.rand(1, 2, 1, 3, SIZE, SIZE)
    raw = torch.zeros(1, 2, 1, GAUSSIAN_CHANNELS, SIZE, SIZE)
    depths = torch.full((1, 2, 1, SIZE, SIZE), DEPTH)
    return gaussians_from_maps(raw, images, depths, cameras, BEFORE_THE_BLUR), cameras


def as_other_viewers(path, size: int, closer: float = 1.0) -> torch.Tensor:
    """Alphas of a PLY file, read and drawn without our own reader, with .3 pixels^2 of the window."""
    data = path.read_bytes()
    header, end = data.split(b"end_header\n")[0], data.index(b"end_header\n") + len(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    table = np.frombuffer(data[end:], "<f4").reshape(-1, len(names))
    column = dict(zip(names, torch.from_numpy(table.copy()).T))
    take = lambda *wanted: torch.stack([column[name] for name in wanted], 1)  # noqa: E731
    viewmat = torch.eye(4)
    viewmat[2, 3] = -DEPTH * (1 - closer)
    scale = size / SIZE
    K = torch.tensor([[FOCAL * scale, 0, size / 2], [0, FOCAL * scale, size / 2], [0, 0, 1]])
    _, alphas, _ = rasterize(
        take("x", "y", "z"), take("rot_0", "rot_1", "rot_2", "rot_3"), take("scale_0", "scale_1", "scale_2").exp(),
        column["opacity"].sigmoid(), take("f_dc_0", "f_dc_1", "f_dc_2"), viewmat[None], K[None], size, size, eps2d=0.3,
    )  # fmt: skip
    return alphas[0, :, :, 0]


def test_pixels_that_are_not_square_blur_by_their_geometric_mean():
    gaussians, cameras = wall()
    cameras.intrinsics = cameras.intrinsics.clone()
    cameras.intrinsics[:, 1, 0, 0] = 4 * FOCAL  # of the second view alone
    added = (with_blur(gaussians, cameras).scales.square() - gaussians.scales.square())[0, 0, :, 0]
    wide, narrow = added.chunk(2)
    assert torch.allclose(wide, torch.tensor(LOW_PASS * (DEPTH / FOCAL) ** 2), rtol=1e-3)
    assert torch.allclose(narrow, wide / 4, rtol=1e-3)


def test_files_cover_the_same_at_every_size_and_distance(tmp_path):
    gaussians, cameras = wall()
    write_ply(tmp_path / "thin.ply", gaussians[0, 0])
    write_ply(tmp_path / "blurred.ply", with_blur(gaussians, cameras)[0, 0])
    _, _, trained = render_gaussians(gaussians, cameras[:, None], SIZE, SIZE)
    full = float(trained[0, 0, 0].mean())
    assert full > 0.9
    assert as_other_viewers(tmp_path / "thin.ply", 800).mean() < 0.2 * full  # the dot screen
    for size in (64, 200, 400, 800):
        assert as_other_viewers(tmp_path / "blurred.ply", size).mean() > 0.95 * full, size
    near = as_other_viewers(tmp_path / "blurred.ply", 800, closer=0.5)
    assert near.mean() > 0.95 * full and near.min() > 0.5  # no holes


def test_growth_is_the_rasterizer_s_blur_at_the_depth_in_the_own_view():
    gaussians, cameras = wall()
    cameras.c2w[:, 1, 2, 3] = -DEPTH  # twice as far away
    grown = with_blur(gaussians, cameras).scales[0, 0]
    before, pixels = gaussians.scales[0, 0], SIZE * SIZE
    for view, depth in ((0, DEPTH), (1, 2 * DEPTH)):
        own = slice(view * pixels, (view + 1) * pixels)
        expected = (before[own].square() + 0.3 * (depth / FOCAL) ** 2).sqrt()
        torch.testing.assert_close(grown[own], expected)


def test_our_own_renderer_does_not_blur_twice():
    """At the size of training the picture stays; the standard low-pass would be sqrt(2) wider."""
    gaussians, cameras = wall()
    gaussians = gaussians[:, :, :: SIZE * 4 + 5]  # separate dots, of the first view
    gaussians = gaussians[:, :, : gaussians.means.shape[2] // 2]
    one = cameras[:, :1]
    grown = with_blur(gaussians, one)
    trained = render_gaussians(gaussians, one[:, None], SIZE, SIZE)[2]
    shown = render_gaussians(grown, one[:, None], SIZE, SIZE)[2]
    twice = render_gaussians(
        Gaussians(*(getattr(grown, n) for n in ("means", "quats", "scales", "opacities", "colors"))),
        one[:, None], SIZE, SIZE,
    )[2]  # fmt: skip
    assert (shown - trained).abs().mean() < 0.15 * (twice - trained).abs().mean()


def test_blurred_once_only_and_known_to_files_and_parts(tmp_path):
    gaussians, cameras = wall()
    grown = with_blur(gaussians, cameras)
    assert grown.blurred and not gaussians.blurred and LOW_PASS == 0.3
    assert torch.equal(with_blur(grown, cameras).scales, grown.scales)
    assert torch.equal(grown.opacities, gaussians.opacities)
    part = grown[0, 0][:5]
    assert part.blurred and part.to(dtype=torch.float64).blurred
    write_ply(tmp_path / "a.ply", part)
    assert read_ply(tmp_path / "a.ply").blurred
    write_ply(tmp_path / "b.ply", gaussians[0, 0][:5])
    assert not read_ply(tmp_path / "b.ply").blurred


def test_gaussians_that_no_view_can_have_made_are_refused():
    gaussians, cameras = wall()
    with pytest.raises(ValueError, match="8191 Gaussians cannot be shared out among 2 views"):
        with_blur(gaussians[:, :, :-1], cameras)
