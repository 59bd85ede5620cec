from dataclasses import replace
from random import Random

import pytest
import torch

from datamodules.augmentation import GridAugmentation, change_colors, fit, flip, unit_floats
from scene4d.types import Cameras, SceneBatch


def rotation(angle, axis):
    """Rodrigues' formula."""
    x, y, z = torch.nn.functional.normalize(torch.tensor(axis), dim=0).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.linalg.matrix_exp(angle * skew)


@pytest.fixture
def batch():
    c2w = torch.eye(4).repeat(1, 2, 1, 1)
    c2w[0, 0, :3, :3], c2w[0, 1, :3, :3] = rotation(0.3, [1.0, 2, 0.5]), rotation(-0.2, [0.2, 1, 0])
    c2w[0, :, :3, 3] = torch.tensor([[0.1, 0.2, -3], [0.7, -0.1, -2.8]])
    intrinsics = torch.tensor([[50.0, 0, 21], [0, 55, 17], [0, 0, 1]]).repeat(1, 2, 1, 1)
    return SceneBatch(
        images=torch.rand(1, 2, 3, 3, 32, 48),
        cameras=Cameras(c2w, intrinsics),
        frame_times=torch.arange(3.0)[None],
        reference=torch.ones(1, 2, 3, dtype=torch.bool),
        source=["objects"],
        keys=["a"],
        depths=2 + torch.rand(1, 2, 3, 32, 48),
    )


def unproject(batch, view, row, column):
    """World point seen at a pixel."""
    depth = batch.depths[0, view, 0, row, column]
    pixel = torch.tensor([column + 0.5, row + 0.5, 1.0])
    point = torch.linalg.inv(batch.cameras.intrinsics[0, view]) @ pixel * depth
    return (batch.cameras.c2w[0, view] @ torch.cat([point, torch.ones(1)]))[:3]


def project(batch, view, point):
    camera = batch.cameras.viewmats[0, view] @ torch.cat([point, torch.ones(1)])
    pixel = batch.cameras.intrinsics[0, view] @ camera[:3]
    return pixel[:2] / pixel[2], camera[2]


def test_flip_keeps_reprojection_between_views(batch):
    """A pixel of view 0 lands in view 1 where its mirror image does, mirrored."""
    mirrored = flip(batch)
    for row, column in ((3, 5), (20, 40), (31, 0)):
        pixel, depth = project(batch, 1, unproject(batch, 0, row, column))
        mirrored_pixel, mirrored_depth = project(mirrored, 1, unproject(mirrored, 0, row, 47 - column))
        assert torch.allclose(
            mirrored_pixel, torch.tensor([48.0, 0]) + pixel * torch.tensor([-1, 1]), atol=1e-3
        )
        assert torch.allclose(mirrored_depth, depth, atol=1e-5)
        assert torch.equal(
            mirrored.images[0, 0, :, :, row, 47 - column], batch.images[0, 0, :, :, row, column]
        )


def test_flip_twice_is_the_identity_and_keeps_rotations(batch):
    mirrored, again = flip(batch), flip(flip(batch))
    assert torch.allclose(torch.linalg.det(mirrored.cameras.c2w[..., :3, :3]), torch.ones(1, 2))
    assert not torch.allclose(mirrored.cameras.c2w, batch.cameras.c2w)
    assert torch.equal(again.images, batch.images) and torch.equal(again.depths, batch.depths)
    assert torch.allclose(again.cameras.c2w, batch.cameras.c2w)
    assert torch.allclose(again.cameras.intrinsics, batch.cameras.intrinsics)


def test_flip_without_cameras(batch):
    mirrored = flip(replace(batch, cameras=None, depths=None))
    assert mirrored.cameras is None and mirrored.depths is None


def test_colours_change_alike_over_the_grid_and_white_stays(batch):
    constant = replace(batch, images=batch.images[:, :1, :1].expand(-1, 2, 3, -1, -1, -1).clone())
    constant.images[..., :4, :4] = 1
    augmentation = GridAugmentation(flip=0, permute_channels=1.0, gamma=0.5, gain=0.5)
    images = augmentation.apply(constant, Random(1)).images
    assert torch.equal(images, images[:, :1, :1].expand_as(images))
    assert not torch.allclose(images, constant.images, atol=0.05)
    assert torch.equal(images[..., :4, :4], torch.ones_like(images[..., :4, :4]))
    black = change_colors(torch.zeros(1, 1, 1, 3, 2, 2), 1.3, torch.tensor([0.5, 1.0, 1.5]), keep_white=False)
    assert torch.equal(black, torch.zeros_like(black))


@pytest.mark.parametrize("keep_white", [True, False])
def test_colours_of_bytes_change_like_those_of_floats(batch, keep_white):
    """To the bit: a table of 256 levels a channel stands for the formula at every pixel."""
    levels = torch.randint(0, 256, batch.images.shape, dtype=torch.uint8)
    augmentation = GridAugmentation(0.5, 0.5, gamma=0.3, gain=0.3, keep_white=keep_white)
    for seed in range(8):
        bytewise = augmentation.apply(replace(batch, images=levels), Random(seed))
        plain = augmentation.apply(replace(batch, images=levels / 255), Random(seed))
        assert torch.equal(bytewise.images, plain.images) and bytewise.images.dtype == torch.float32


def test_bytes_become_floats_as_before():
    levels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16).transpose(0, 1)
    assert torch.equal(unit_floats(levels), levels.float() / 255) and unit_floats(levels).is_contiguous()
    floats = torch.rand(2, 3)
    assert unit_floats(floats) is floats


def test_nothing_asked_changes_nothing(batch):
    assert GridAugmentation(flip=0).apply(batch, Random(0)) is batch


def test_flip_probability(batch):
    augmentation, rng = GridAugmentation(flip=0.3), Random(0)
    flipped = sum(not torch.equal(augmentation.apply(batch, rng).images, batch.images) for _ in range(1000))
    assert 250 < flipped < 350


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match="gain.*2"):
        GridAugmentation(gain=2)


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (8, 32)])
def test_fit_carries_cameras_and_depth(batch, size):
    """A world point keeps its place relative to the image content: checked with coordinate images."""
    x, y = torch.arange(48) + 0.5, torch.arange(32) + 0.5
    ramp = torch.stack([x.expand(32, 48), y[:, None].expand(32, 48), torch.ones(32, 48)]) / 48
    batch = replace(batch, images=ramp.expand(1, 2, 3, 3, 32, 48))
    fitted = fit(batch, size)
    assert fitted.images.shape[-2:] == fitted.depths.shape[-2:] == size
    row, column = size[0] // 2, size[1] // 2
    before = fitted.images[0, 0, 0, :2, row, column] * 48  # pixel of the original image seen there
    ray = torch.linalg.inv(batch.cameras.intrinsics[0, 0]) @ torch.cat([before, torch.ones(1)])
    now = fitted.cameras.intrinsics[0, 0] @ ray
    assert torch.allclose(now[:2], torch.tensor([column + 0.5, row + 0.5]), atol=0.05)
    assert fit(batch, (32, 48)) is batch


def test_fit_does_not_mix_depths(batch):
    batch.depths[:] = torch.where(torch.arange(48) < 20, 1.0, 9.0)
    assert set(fit(batch, (16, 16)).depths.unique().tolist()) == {1.0, 9.0}
