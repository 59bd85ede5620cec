"""One rule brings pictures of any shape to the size of a grid."""

import numpy as np
import pytest
import torch

from datamodules.middle_cut import cut_middle, height_and_width, middle_part


@pytest.mark.parametrize("picture, size, rows, columns", [
    ((1080, 1920), (144, 256), (0, 1080), (0, 1920)),  # 16:9 stays whole
    ((1920, 1080), (256, 144), (0, 1920), (0, 1080)),
    ((1080, 1920), 64, (0, 1080), (420, 1500)),
    ((1920, 1080), (144, 256), (656, 1264), (0, 1080)),  # 1080 * 9 / 16 = 607.5
    ((480, 640), (144, 256), (60, 420), (0, 640)),
    ((480, 640), (256, 144), (0, 480), (185, 455)),
    ((3, 5000), (1000, 1), (0, 3), (2499, 2500)),  # never nothing
])  # fmt: skip
def test_the_largest_middle_part_of_the_shape(picture, size, rows, columns):
    found = middle_part(*picture, size)
    assert [(part.start, part.stop) for part in found] == [rows, columns]


def test_what_is_cut_keeps_its_shape_and_its_place():
    """A square in the middle stays one, and nothing from beyond the part comes in."""
    pixels = np.zeros((90, 200, 3), np.uint8)
    pixels[:, 20:180], pixels[30:60, 85:115] = 60, 240
    image = cut_middle(pixels, (72, 128))  # the middle 90 x 160, scaled by 0.8
    bright = image[0] > 0.6
    assert image.min() > 0.23 and (bright.any(0).sum(), bright.any(1).sum()) == (24, 24)
    assert bright.any(0).nonzero()[[0, -1], 0].tolist() == [52, 75]


def test_scaling_down_averages():
    """Stripes of one pixel become grey; without antialiasing they would stay black or white."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 255
    assert (cut_middle(pixels, (8, 8))[:, :, 1:-1] - 0.5).abs().max() < 0.05


def test_the_size_itself_is_not_scaled():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    assert torch.equal(cut_middle(pixels, (9, 16)), torch.from_numpy(pixels).movedim(-1, 0) / 255)


@pytest.mark.parametrize("size", [0, -8, (144, 0), (144,), (1, 2, 3), (8.0, 8)])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ValueError, match=r"size must be one positive number or \(height, width\), got"):
        height_and_width(size)
