"""Synchronized views as users bring them: videos, folders of pictures, or pictures, one per view."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import SynchronizedViews, read_views
from datamodules.synchronized_views import VideoView, read_picture
from scene4d.sample_pictures import encode_video

STEP = 8  # grey levels from one frame to the next


def video(path, count=10, fps=12, size=(16, 16), first=0):
    levels = (first + STEP * np.arange(count)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (count, *size, 3))
    path.write_bytes(encode_video(frames, fps, crf=0))


def picture(path, level=0, size=(16, 16)):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(path)


def levels(images):
    return (images.mean((-1, -2, -3)) * 255 / STEP).round().int().tolist()


def test_one_video_per_view_in_natural_order_with_other_files_beside(tmp_path):
    for k in (10, 2, 1):
        video(tmp_path / f"cam{k}.mp4", first=STEP * k)
    for name in ("._cam1.mp4", ".DS_Store", "readme.txt", "cameras.json"):
        (tmp_path / name).write_text("x")
    batch = read_views(str(tmp_path), size=16)
    assert batch.images.shape == (1, 3, 10, 3, 16, 16)
    assert levels(batch.images[0, :, 0]) == [1, 2, 10] and levels(batch.images[0, 0]) == list(range(1, 11))
    assert batch.cameras is None and batch.reference.all() and batch.keys == [tmp_path.name]
    assert torch.equal(batch.frame_times, torch.arange(10)[None] / 12)


def test_rates_and_sizes_may_differ(tmp_path, caplog):
    video(tmp_path / "a.mp4", 24, 24, (16, 32))
    video(tmp_path / "b.mkv", 12, 12, (64, 48))
    with caplog.at_level(logging.INFO):
        batch = read_views(str(tmp_path), size=16)
    assert levels(batch.images[0, 0]) == list(range(0, 24, 2)) and levels(batch.images[0, 1]) == list(
        range(12)
    )
    assert "2 of 2 views x 12 timesteps at 12 a second" in caplog.text and "scaled to 16 x 16" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    slow = read_views(str(tmp_path), size=16, fps=6, frames=3)
    assert levels(slow.images[0, 1]) == [0, 2, 4]


def test_the_grid_may_have_any_shape_or_that_of_the_first_view(tmp_path):
    """The middle of every view in the wanted shape: white bars above and below, or left and right, are cut off."""
    for name, (height, width), bar in (
        ("1.png", (40, 90), 0),
        ("2.png", (90, 90), 25),
        ("3.png", (40, 120), 0),
    ):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:bar], pixels[height - bar :] = 255, 255
        if width == 120:
            pixels[:, :15], pixels[:, -15:] = 255, 255
        Image.fromarray(pixels).save(tmp_path / name)
    images = read_views(str(tmp_path), size=None).images
    assert images.shape == (1, 3, 1, 3, 40, 90) and images.max() < 0.02
    assert read_views(str(tmp_path), size=(30, 20)).images.shape[-2:] == (30, 20)
    assert read_views(str(tmp_path), size=(60, 60)).images[0, 1].max() == 1  # the whole square, with its bars


def test_the_shape_of_a_large_first_view_is_made_smaller(tmp_path):
    video(tmp_path / "a.mp4", 2, size=(600, 1036))
    video(tmp_path / "b.mp4", 2, size=(64, 32))
    assert read_views(str(tmp_path), size=None).images.shape == (1, 2, 2, 3, 300, 518)


def test_the_shortest_view_decides_and_that_is_said(tmp_path, caplog):
    video(tmp_path / "a.mp4", 10)
    video(tmp_path / "b.mp4", 7)
    assert read_views(str(tmp_path), size=16).images.shape[2] == 7
    assert "'b.mp4' ends after 7 timesteps and 'a.mp4' after 10 or more; the first 7 are taken" in caplog.text


def test_folders_of_pictures(tmp_path, caplog):
    for view in ("left", "right"):
        for k in (7, 8, 9, 10, 11):
            picture(tmp_path / view / f"frame_{k}.png", STEP * k, (20, 16 + 4 * (view == "left")))
        (tmp_path / view / "._frame_7.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    batch = SynchronizedViews(str(tmp_path), size=16, frames=4, key="mine")
    batch.setup("predict")
    (only,) = batch.predict_dataloader()
    assert only.keys == ["mine"] and levels(only.images[0, 1]) == [7, 8, 9, 10]
    (tmp_path / "right" / "frame_11.png").unlink()
    assert read_views(str(tmp_path), size=16).images.shape[2] == 4 and "'right' ends after 4" in caplog.text


def test_pictures_are_one_timestep(tmp_path):
    for k in range(9):
        picture(tmp_path / f"IMG_{k}.JPG", STEP * k)
    assert read_views(str(tmp_path), size=16).images.shape == (1, 9, 1, 3, 16, 16)
    assert levels(read_views(str(tmp_path), size=16, views=3).images[0, :, 0]) == [0, 4, 8]


def test_pictures_the_right_way_up_on_white_with_16_bits(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    upright = read_picture(tmp_path / "a.png")
    assert upright.shape == (16, 8, 3) and (upright[:8] == 255).all() and (upright[8:] == 0).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert (read_picture(tmp_path / "b.png") == 255).all()
    Image.fromarray(np.full((4, 4), 200 << 8, np.uint16)).save(tmp_path / "c.png")
    assert (read_picture(tmp_path / "c.png") == 200).all()
    assert read_picture(tmp_path / "c.png").flags.writeable  # or torch warns of undefined behaviour


def broken(tmp_path):
    video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:200])


def mixed(tmp_path):
    video(tmp_path / "a.mp4"), video(tmp_path / "b.mp4"), picture(tmp_path / "c.png")


def half_empty(tmp_path):
    picture(tmp_path / "left" / "0.png")
    (tmp_path / "right").mkdir()


def broken_picture(tmp_path):
    picture(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no picture")


def test_times_in_milliseconds_make_no_further_timestep(monkeypatch):
    times = np.round(np.arange(15) / 12, 3)  # seems to last 1.251 s, which is more than 15 / 12
    monkeypatch.setattr("datamodules.synchronized_views.frame_times", lambda path, until: times)
    assert VideoView(None).count(12.0, 30) == 15


def of_floats(tmp_path):
    for name in ("0.tif", "1.tif"):
        Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / name)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: None, "holds no view, expected at least 2 views: one video per view"),
        (lambda folder: video(folder / "a.mp4"), "holds 1 videos, expected at least 2 views"),
        (mixed, "holds 2 videos and 1 pictures; it should hold one video per view"),
        (broken, "b.mp4' cannot be decoded"),
        (half_empty, "right' holds no picture"),
        (of_floats, "0.tif' cannot be read: its pixels are floating-point numbers"),  # were black
        (broken_picture, "picture '.*1.png' cannot be read"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_views(str(tmp_path), size=16)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="folder 'absent' does not exist; it should hold one video per view"):
        read_views("absent")
    for name, value in (("size", 0), ("frames", 0), ("views", 1), ("fps", 0.0)):
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            SynchronizedViews("x", **{name: value})
