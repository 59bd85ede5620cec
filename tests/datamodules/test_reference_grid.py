"""Grids of either video alone, of both, and of a prompt."""

import logging

import numpy as np
import pytest
import torch

from datamodules import ReferenceVideos, read_references
from scene4d.references import reference_mask
from scene4d.sample_pictures import encode_video


@pytest.fixture
def videos(tmp_path):
    """A fixed view of 20 frames of 36 x 64 and a freeze time of 9, whose first frames are the same."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(60, 180, 64, dtype=np.uint8)[None, None, :, None]
    paths = []
    for name, count in (("fixed_view", 20), ("freeze_time", 9)):
        frames = np.broadcast_to(ramp, (count, 36, 64, 3)).copy()
        frames[1:, :18] += rng.integers(0, 60, (count - 1, 1, 1, 1), dtype=np.uint8)
        (tmp_path / f"{name}.mp4").write_bytes(encode_video(frames, 12))
        paths.append(str(tmp_path / f"{name}.mp4"))
    return paths


def test_a_fixed_view_alone(videos):
    batch = read_references(videos[0], size=(36, 64), views=5)
    both = read_references(*videos, size=(36, 64), views=5)
    assert batch.images.shape == (1, 5, 17, 3, 36, 64)
    assert torch.equal(batch.reference[0], reference_mask("fixed_view", 5, 17))
    assert torch.equal(batch.images[0, 0], both.images[0, 0]) and (batch.images[0, 1:] == 1).all()
    assert torch.equal(batch.frame_times, both.frame_times)


def test_a_freeze_time_alone(videos):
    batch = read_references(freeze_time=videos[1], size=(36, 64), views=5, frames=9, fps=8.0)
    both = read_references(*videos, size=(36, 64), views=5)
    assert batch.images.shape == (1, 5, 9, 3, 36, 64)
    assert torch.equal(batch.reference[0], reference_mask("freeze_time", 5, 9))
    assert torch.equal(batch.images[0, :, 0], both.images[0, :, 0]) and (batch.images[0, :, 1:] == 1).all()
    assert torch.equal(batch.frame_times, torch.arange(9)[None] / 8)


def test_a_prompt_alone_and_beside_videos(videos):
    batch = read_references(prompt="a cat", size=(64, 36), views=3, frames=5, key="cat")
    assert batch.images.shape == (1, 3, 5, 3, 64, 36) and (batch.images == 1).all()
    assert not batch.reference.any() and batch.prompts == ["a cat"] and batch.keys == ["cat"]
    beside = read_references(videos[0], prompt="a dog")
    assert beside.prompts == ["a dog"] and beside.reference[0, 0].all()
    assert read_references(videos[0], prompt="  ").prompts == []


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_nothing_is_one_line(prompt):
    with pytest.raises(
        ValueError, match="nothing is given: expected fixed_view, freeze_time or, without"
    ) as e:
        ReferenceVideos(prompt=prompt)
    assert "\n" not in str(e.value)


def test_the_rule_is_said_once_per_video(videos, caplog):
    with caplog.at_level(logging.INFO, "datamodules"):
        read_references(*videos, size=(16, 16))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        f"{videos[0]}: 17 frames, nearest in time to 12 a second; of the upright 36 x 64 pixels (height x width) the "
        "middle 36 x 36 are scaled to 16 x 16",
        f"{videos[1]}: 4 of 9 frames, evenly spaced; of the upright 36 x 64 pixels (height x width) the middle "
        "36 x 36 are scaled to 16 x 16",
    ]


@pytest.mark.parametrize("way", [0, 1])
def test_bad_videos_alone_are_named(tmp_path, way):
    (tmp_path / "broken.mp4").write_text("404 not found\n" * 999)
    given = [None, None]
    given[way] = str(tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match="broken.mp4' cannot be decoded"):
        read_references(*given)
