"""What users bring as reference videos: any rate, shape, rotation, and files that are no videos."""

import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules import ReferenceVideos
from datamodules.middle_cut import read_middles
from scene4d.sample_pictures import decode_video, encode_video
from scene4d.video_files import frame_times

GREYS = 4  # grey levels from one frame to the next
TICKS = 3000  # a second


def write(path, times, size=(16, 16), pix_fmt="yuv444p", codec="libx264", still=None):
    """Frames k of grey level GREYS * k, or all `still`, shown at `times`, in ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, TICKS)
        for k, time in enumerate(times):
            pixels = np.full((*size, 3), GREYS * k % 256, np.uint8) if still is None else still
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def evenly(count, fps):
    return [k * TICKS // fps for k in range(count)]


def batch(fixed_view, freeze_time=None, **options):
    videos = ReferenceVideos(fixed_view, freeze_time or fixed_view, **{"size": 16, **options})
    videos.setup("predict")
    return videos.batch


def numbers(images):
    """Which frame each image is, by its grey level."""
    return (images.mean((-1, -2, -3)) * 255 / GREYS).round().int().tolist()


def test_at_the_models_rate_every_frame_counts(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, 24, 40, 3), dtype=np.uint8)
    (tmp_path / "a.mp4").write_bytes(encode_video(frames, 12))
    square = torch.from_numpy(decode_video((tmp_path / "a.mp4").read_bytes())[:, :, 8:32]).movedim(-1, 1)
    for size in (24, 16):
        given = batch(str(tmp_path / "a.mp4"), size=size)
        images = square.float() / 255
        if size != 24:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        assert torch.equal(given.images[0, 0], images[:17])
        assert torch.equal(given.images[0, :, 0], images[[0, 6, 13, 19]])
        assert torch.equal(given.frame_times, torch.arange(17)[None] / 12)


def test_a_faster_video_is_read_at_the_models_rate(tmp_path):
    given = batch(write(tmp_path / "a.mp4", evenly(45, 30)))
    assert numbers(given.images[0, 0]) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40]
    assert given.frame_times[0, [1, 4, 16]].tolist() == pytest.approx([2 / 30, 10 / 30, 40 / 30])
    other = batch(write(tmp_path / "b.mp4", evenly(45, 30)), fps=15, frames=9)
    assert numbers(other.images[0, 0]) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_a_rate_at_which_nothing_moves_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", evenly(20, 30))
    with pytest.raises(
        ValueError, match="second frame after 0.0333 s: 17 frames at 1000 a second would all be"
    ):
        batch(path, fps=1000.0)


def test_presentation_times_count_not_the_average_rate(tmp_path):
    times = [500, 520, 540, 580, 590, 660, 730, 760, 830, 1000]  # ms; the first moment is 500
    given = batch(write(tmp_path / "a.mkv", [3 * time for time in times]), frames=5)
    assert numbers(given.images[0, 0]) == [0, 3, 5, 7, 8]
    assert given.frame_times[0].tolist() == pytest.approx([0, 0.08, 0.16, 0.26, 0.33])


@pytest.mark.parametrize("codec, name", [("libx264", "a.h264"), ("mpeg4", "a.avi")])
def test_files_that_store_no_times(tmp_path, codec, name):
    path = write(tmp_path / name, evenly(25, 30), (32, 32), "yuv420p", codec)
    assert len(frame_times(path)) == 25 and (np.diff(frame_times(path)) > 0).all()


def test_shorter_videos_give_fewer_frames_or_one_line(tmp_path):
    assert batch(write(tmp_path / "a.mp4", evenly(30, 30))).images.shape[2] == 9
    with pytest.raises(
        ValueError, match=r"short.mp4' lasts 0.33 s: 5 frames.*12 a second need more than 0.33 s"
    ):
        batch(write(tmp_path / "short.mp4", evenly(10, 30)))
    assert batch(write(tmp_path / "b.mp4", evenly(11, 30))).images.shape[2] == 5


def test_views_are_spread_over_the_whole_freeze_time_video(tmp_path):
    row, column = write(tmp_path / "a.mp4", evenly(17, 12)), write(tmp_path / "b.mp4", evenly(31, 60))
    assert numbers(batch(row, column).images[0, :, 0])[1:] == [10, 20, 30]
    assert batch(row, write(tmp_path / "c.mp4", evenly(3, 60))).images.shape[1] == 3


@pytest.mark.parametrize("h, w, pix_fmt", [(32, 64, "yuv420p"), (64, 32, "yuv420p10le"), (33, 47, "yuv444p")])
def test_the_middle_square_of_any_shape(tmp_path, h, w, pix_fmt):
    still, side = np.zeros((h, w, 3), np.uint8), min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    still[top : top + side, left : left + side] = (200, 100, 50)
    image = read_middles(write(tmp_path / "a.mp4", evenly(5, 12), (h, w), pix_fmt, still=still), [4 / 12], 16)
    inner = image[0, :, 1:-1, 1:-1].amax((1, 2)), image[0, :, 1:-1, 1:-1].amin((1, 2))
    for found in inner:
        torch.testing.assert_close(found * 255, torch.tensor([200.0, 100, 50]), atol=12, rtol=0)


@pytest.mark.parametrize(
    "matrix, corner",
    [
        ((1, 0, 0, 1), (0, 0)),
        ((0, 1, -1, 0), (0, 1)),  # a phone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), (1, 1)),
        ((0, -1, 1, 0), (1, 0)),
        ((-1, 0, 0, 1), (0, 1)),  # mirrored
        ((1, 0, 0, -1), (1, 0)),
        ((0, 1, 1, 0), (0, 0)),
        ((0, -1, -1, 0), (1, 1)),
    ],
)
def test_phones_that_were_turned(tmp_path, matrix, corner):
    """Top left is white, top right grey: where they go by a, b, c, d of x' = a x + c y, y' = b x + d y."""
    still = np.zeros((32, 64, 3), np.uint8)
    still[:16, :32], still[:16, 32:] = 255, 128
    path = tmp_path / "a.mp4"
    write(path, evenly(5, 12), (32, 64), still=still)
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = data.index(b"tkhd") + 44  # the matrix of ISO 14496-12, 8.3.2
    data[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    quarters = read_middles(str(path), [0], 16)[0].mean(0).reshape(2, 8, 2, 8).mean((1, 3))
    white = np.unravel_index(int(quarters.argmax()), (2, 2))
    grey = np.unravel_index(int((quarters - 0.5).abs().argmin()), (2, 2))
    a, b, c, d = matrix
    assert white == corner
    assert (grey[1] - white[1], grey[0] - white[0]) == (a, b)  # one step to the right, turned


def picture(path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)


def text(path):
    path.write_text("404 not found\n" * 999)


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


def cut_off(path):
    write(path.with_suffix(".mp4"), evenly(20, 12))
    path.write_bytes(path.with_suffix(".mp4").read_bytes()[:-200])


@pytest.mark.parametrize(
    "make, name, message",
    [
        (lambda path: None, "absent.mp4", "does not exist"),
        (lambda path: path.mkdir(), "folder", "does not exist"),
        (lambda path: path.write_bytes(b""), "empty.mp4", "cannot be decoded"),
        (text, "page.mp4", "cannot be decoded"),
        (text, "notes.txt", "cannot be decoded: it holds no pictures"),
        (cut_off, "cut_off", "cannot be decoded"),
        (sound, "sound.wav", "cannot be decoded: it holds no pictures"),
        (picture, "picture.png", "has 1 frame, a video has at least 2"),
        (picture, "picture.jpg", "has 1 frame, a video has at least 2"),
        (picture, "picture_%d.webp", "has 1 frame, a video has at least 2"),
    ],
)
@pytest.mark.parametrize("row", [True, False])
def test_what_is_no_video_is_named(tmp_path, make, name, message, row):
    path, good = tmp_path / name, write(tmp_path / "good.mp4", evenly(17, 12))
    make(path)
    with pytest.raises(ValueError, match=f"{name}'.*{message}") as error:
        batch(*([str(path), good] if row else [good, str(path)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", [{"frames": 1}, {"frames": 8}, {"views": 1}, {"fps": 0.0}, {"size": 0}])
def test_numbers_out_of_range(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        ReferenceVideos("a.mp4", "b.mp4", **option)


def test_frames_are_read_one_by_one(tmp_path):
    """60 frames are 14 MB; at most a few of them, 0.2 MB each, are in memory."""
    path = write(tmp_path / "a.mp4", evenly(60, 30), (240, 320), "yuv420p")
    tracemalloc.start()
    batch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
