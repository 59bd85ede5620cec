"""Reference videos that cannot belong together: refused, warned of, or taken, as one wishes."""

import logging

import numpy as np
import pytest
import torch
import webdataset as wds

from datamodules import ReferenceVideos, read_references
from datamodules.reference_checks import movement_hint, shared_frame_psnr, still_share
from scene4d.sample_format import decode_sample
from scene4d.sample_pictures import encode_video

SHARDS = "assets/small/shards"


@pytest.fixture(scope="module")
def scenes():
    """The first two scenes on white, and of physics, which fill the picture."""
    found = {}
    for source in ("objects", "physics"):
        samples = iter(wds.WebDataset([f"{SHARDS}/{source}-val-000000.tar"], shardshuffle=False))
        found[source] = [decode_sample(next(samples), depth=False).images for _ in range(2)]
    return found


def videos(folder, row, column, crf=18):
    paths = []
    for name, frames in (("fixed", row), ("freeze", column)):
        (folder / f"{name}.mp4").write_bytes(encode_video(np.ascontiguousarray(frames), 12, crf))
        paths.append(str(folder / f"{name}.mp4"))
    return paths


def warned(caplog):
    """Warnings; what is cut and scaled is said, too, and no warning."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("source", ["objects", "physics"])
@pytest.mark.parametrize("crf", [6, 23, 28])
def test_a_right_pair_is_taken_without_a_word(tmp_path, scenes, source, crf, caplog):
    images = scenes[source][0]
    read_references(*videos(tmp_path, images[0, :17], images[:4, 0], crf))
    assert not warned(caplog)


@pytest.mark.parametrize("source", ["objects", "physics"])
@pytest.mark.parametrize("change", ["black", "inverted"])
def test_pictures_with_nothing_in_common_are_refused(tmp_path, scenes, source, change, caplog):
    images = scenes[source][0]
    row = images[0, :17] * 0 if change == "black" else 255 - images[0, :17]
    paths = videos(tmp_path, row, images[:4, 0])
    expected = (
        r"the first frames of '.*fixed.mp4' and '.*freeze.mp4' should show the same, but differ: PSNR \d"
    )
    with pytest.raises(ValueError, match=expected) as caught:
        read_references(*paths)
    assert "shared_frame: warn" in str(caught.value) and "\n" not in str(caught.value)
    read_references(*paths, shared_frame="warn")
    assert "should show the same, but differ: PSNR" in caplog.text
    caplog.clear()
    read_references(*paths, shared_frame="ignore")
    assert not warned(caplog)


def test_another_moment_and_another_camera_are_warned_of(tmp_path, scenes, caplog):
    images = scenes["physics"][0]
    for column in (images[:4, 8], images[1:5, 0]):
        caplog.clear()
        read_references(*videos(tmp_path, images[0, :17], column))
        assert "should show the same, but differ" in caplog.text


def test_swapped_videos_are_warned_of_where_the_scene_fills_the_picture(tmp_path, scenes, caplog):
    images = scenes["physics"][0]
    fixed, freeze = videos(tmp_path, images[0, :17], np.repeat(images[:, 0], 2, 0))
    read_references(freeze, fixed)
    (line,) = warned(caplog)
    assert line.startswith("are the two videos swapped?") and "freeze.mp4' should be the fixed view" in line


def test_a_fixed_view_whose_every_pixel_moves_is_warned_of(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    read_references(*videos(tmp_path, noise, noise[:4], crf=6))
    (line,) = warned(caplog)
    assert line.startswith("does the camera of '") and "% of its pixels stand still" in line


def test_a_little_more_that_stands_still_in_the_freeze_time_video_says_nothing():
    """Water, trees and smoke move all over a fixed view."""
    fixed, freeze = torch.zeros(2, 3, 10, 10), torch.zeros(2, 3, 10, 10)
    fixed[1, :, :5], freeze[1, :, :3] = 1, 1  # 50% and 70% stand still
    assert movement_hint(fixed, freeze, ("a", "b")) == ""
    freeze[1] = 0
    assert movement_hint(fixed, freeze, ("a", "b")).startswith("are the two videos swapped?")


def test_larger_pictures_are_compared_at_64_pixels():
    rng = torch.Generator().manual_seed(0)
    small = torch.rand(3, 64, 64, generator=rng)
    large = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    noisy = large + 0.1 * torch.randn(large.shape, generator=rng)
    assert shared_frame_psnr(large, large) == 80 and shared_frame_psnr(large, noisy) > 30
    assert (
        still_share(torch.stack([small, small])) == 1 and still_share(torch.stack([small, 1 - small])) < 0.1
    )


def test_other_words_are_refused(caplog):
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ValueError, match="refuse, warn, ignore, got 'never'"),
    ):
        ReferenceVideos("a.mp4", "b.mp4", shared_frame="never")
