"""Right colours, right way up, round circles, right moments: whatever a video file says of itself."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from scene4d.sample_pictures import decode_video, encode_video
from scene4d.video_files import frame_times, read_frames, video_info
from scene4d.video_files.frames import _nearest
from scene4d.video_files.streams import Shown, decoded
from scene4d.video_files.upright import square_pixels
from scene4d.visualization import write_video

TICKS = 3000  # a second
LEVELS = 3  # of 255, the largest error of a colour
WEIGHTS = {  # of red and blue in the brightness, by matrix: ITU-T H.273, table 4
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}  # fmt: skip
NAMES = {1: "bt709", 2: "unknown", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
PATCH = 16  # pixels; colours bleed over the edges of patches where chroma is subsampled


def patches(columns=8, rows=4):
    colours = np.random.default_rng(0).integers(0, 256, (rows, columns, 3))
    colours[0, :7] = [
        [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128], [255, 255, 0],
    ]  # fmt: skip
    return colours.astype(np.uint8).repeat(PATCH, 0).repeat(PATCH, 1)


def off(found, expected):
    """Largest error inside the patches."""
    error = np.abs(found.astype(int) - expected).max(-1)
    h, w = error.shape
    return error.reshape(h // PATCH, PATCH, w // PATCH, PATCH)[:, 4:-4, :, 4:-4].max()


def yuv(image, pix_fmt, matrix, full):
    """The frame of an image by the formulas of H.273, 8.3."""
    red, blue = WEIGHTS[matrix]
    bits = next((n for n in (10, 12) if f"p{n}" in pix_fmt), 8)
    rgb = image / 255
    y = rgb @ [red, 1 - red - blue, blue]
    chroma = [(rgb[..., 2] - y) / (1 - blue) / 2, (rgb[..., 0] - y) / (1 - red) / 2]
    one, middle = 2 ** (bits - 8), 2 ** (bits - 1)
    if full:
        planes = [y * (2**bits - 1), *(c * (2**bits - 1) + middle for c in chroma)]
    else:
        planes = [(16 + 219 * y) * one, *(224 * c * one + middle for c in chroma)]
    across, down = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[
        pix_fmt.removeprefix("yuvj").removeprefix("yuv")[:3]
    ]
    frame = av.VideoFrame(image.shape[1], image.shape[0], pix_fmt)
    for k, plane in enumerate(planes):
        plane = plane if k == 0 else plane[::down, ::across]
        fill(frame.planes[k], plane.round().clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else "<u2"))
    return frame


def fill(plane, values):
    rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
    rows[:, : values.shape[1]] = values
    plane.update(rows.tobytes())


def write(path, frames, times=None, codec="ffv1", tags=None, aspect=None):
    """Writes frames as they are, at `times` in ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"qp": "0", **(tags or {})})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        stream.codec_context.time_base = Fraction(1, TICKS)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for k, frame in enumerate(frames):
            frame.pts, frame.time_base = k * TICKS // 30 if times is None else times[k], Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rgb(image):
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize(
    "pix_fmt, codec",
    [("yuv420p", "libx264"), ("yuv422p", "ffv1"), ("yuv444p", "libx264"), ("yuv420p10le", "libx264"),
     ("yuv444p10le", "ffv1"), ("yuv420p12le", "ffv1"), ("yuv444p12le", "ffv1")],
)  # fmt: skip
def test_colours_of_every_matrix_range_and_depth(tmp_path, pix_fmt, codec, matrix, full):
    image = patches()
    tags = {"colorspace": NAMES[matrix], "color_range": "pc" if full else "tv"}
    frame = yuv(image, pix_fmt, matrix, full)
    path = write(tmp_path / ("a.mkv" if codec == "ffv1" else "a.mp4"), [frame], codec=codec, tags=tags)
    assert off(next(read_frames(path, [0])), image) <= LEVELS


@pytest.mark.parametrize("size, matrix", [((576, 1024), 6), ((32, 1280), 1), ((592, 64), 1)])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_a_video_that_names_no_matrix_is_taken_by_its_size(tmp_path, size, matrix, full):
    image = np.tile(patches(), (20, 12, 1))[: size[0], : size[1]]
    tags = {"color_range": "pc" if full else "tv"}
    path = write(tmp_path / "a.mkv", [yuv(image, "yuv444p", matrix, full)], codec="libx264", tags=tags)
    assert off(next(read_frames(path, [0])), image) <= LEVELS


def test_the_range_that_only_the_pixel_format_names(tmp_path):
    image = patches()
    path = write(
        tmp_path / "a.avi", [yuv(image, "yuvj444p", 6, True)], codec="mjpeg", tags={"qmin": "1", "qmax": "1"}
    )
    assert off(next(read_frames(path, [0])), image) <= LEVELS


@pytest.mark.parametrize("pix_fmt, codec",
    [("gbrp", "libx264rgb"), ("bgr0", "ffv1"), ("gbrp10le", "ffv1"),
                                            ("rgb24", "qtrle"), ("rgb48le", "ffv1"), ("pal8", "gif")])  # fmt: skip
def test_colours_that_are_stored_as_rgb(tmp_path, pix_fmt, codec):
    image = patches()
    if codec == "libx264rgb":
        pix_fmt = "rgb24"  # the decoder gives gbrp
    frame = rgb(image).reformat(format="rgb8" if codec == "gif" else pix_fmt)
    image = frame.to_ndarray(format="rgb24") if codec == "gif" else image
    path = write(tmp_path / f"a.{dict(qtrle='mov', gif='gif').get(codec, 'mkv')}", [frame], codec=codec)
    assert off(next(read_frames(path, [0])), image) <= 1


@pytest.mark.parametrize("tag", ["tv", "pc", None])
@pytest.mark.parametrize("pix_fmt, codec", [("gray", "libx264"), ("gray", "ffv1"), ("gray10le", "ffv1")])
def test_gray(tmp_path, pix_fmt, codec, tag):
    levels = np.arange(0, 256, 8).repeat(PATCH).reshape(2, -1).repeat(PATCH, 0)
    limited = tag == "tv" or (tag is None and codec == "libx264")
    stored = 16 + 219 * levels / 255 if limited else levels
    one = 4 if "10" in pix_fmt and limited else 1023 / 255 if "10" in pix_fmt else 1
    frame = av.VideoFrame(levels.shape[1], levels.shape[0], pix_fmt)
    fill(frame.planes[0], (stored * one).round().astype("<u2" if "10" in pix_fmt else np.uint8))
    path = write(tmp_path / "a.mkv", [frame], codec=codec, tags={"color_range": tag} if tag else {})
    assert off(next(read_frames(path, [0])), levels[..., None].repeat(3, -1)) <= LEVELS


@pytest.mark.parametrize("pix_fmt, codec, name",
    [("argb", "qtrle", "a.mov"), ("yuva444p", "ffv1", "a.mkv"),
     ("bgra", "ffv1", "a.mkv"), ("yuva420p", "libvpx-vp9", "a.webm")])  # fmt: skip
def test_what_is_transparent_is_white(tmp_path, pix_fmt, codec, name):
    colours = patches()
    alpha = np.array([0, 255, 128, 64]).repeat(2).repeat(PATCH)[None, :, None].repeat(len(colours), 0)
    rgba = np.concatenate([colours, alpha], -1).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt)
    path = write(tmp_path / name, [frame] * 2, codec=codec, tags={"lossless": "1"} if "vp9" in codec else {})
    expected = colours * (alpha / 255) + 255 - alpha
    assert off(next(read_frames(path, [0])), expected) <= LEVELS


def test_what_cannot_be_converted_is_said_in_one_line(tmp_path):
    frame = yuv(patches(), "yuv444p", 1, False)
    hdr = write(
        tmp_path / "hdr.mp4",
        [frame],
        codec="libx264",
        tags={"colorspace": "bt2020nc", "color_trc": "smpte2084"},
    )
    with pytest.warns(UserWarning, match=r"hdr.mp4' is HDR \(PQ\) and is not tone-mapped"):
        next(read_frames(hdr, [0]))
    path = write(tmp_path / "ycgco.mkv", [frame], codec="libx264", tags={"colorspace": "ycgco"})
    with pytest.raises(ValueError, match="ycgco.mkv' cannot be decoded: its colours have matrix 8 of H.273"):
        next(read_frames(path, [0]))


def turn(path, matrix):
    """Writes a display matrix a, b, c, d of x' = a x + c y, y' = b x + d y into an mp4 file."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2
    data[start : start + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    "matrix, expected",
    [((1, 0, 0, 1), lambda x: x), ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
     ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
     ((0, -1, 1, 0), np.rot90), ((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud),
     ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)), ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1))],
)  # fmt: skip
def test_frames_are_upright_and_the_way_there_is_told(tmp_path, matrix, expected):
    image = patches()
    path = write(
        tmp_path / "a.mp4", [yuv(image, "yuv444p", 1, False)], codec="libx264", tags={"colorspace": "bt709"}
    )
    turn(path, matrix)
    found = next(read_frames(path, [0]))
    assert off(found, expected(image)) <= LEVELS
    way = video_info(path).orientation
    assert way.size == found.shape[:2] and way.mirrored == (np.linalg.det(np.reshape(matrix, (2, 2))) < 0)
    x, y, _ = way.matrix() @ [PATCH * 2.5, PATCH * 0.5, 1]  # in the stored frame: the blue patch
    assert np.abs(found[int(y), int(x)].astype(int) - [0, 0, 255]).max() <= LEVELS


def disc(height, width, aspect):
    """A disc whose pixels are `aspect` times as wide as high: round where it is shown."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2 + 0.5) * aspect) ** 2 + (y - height / 2 + 0.5) ** 2 < 20**2
    return (255 * inside[..., None].repeat(3, -1)).astype(np.uint8)


@pytest.mark.parametrize("aspect, size",
    [("16:15", (64, 102)), ("64:45", (64, 137)), ("8:9", (72, 96)), ("1:2", (128, 96)),
                                          ("3201:3200", (64, 96)), ("1:1", (64, 96))])  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_are_square(tmp_path, aspect, size, turned):
    image = disc(64, 96, float(Fraction(aspect.replace(":", "/"))))
    path = write(
        tmp_path / "a.mp4",
        [rgb(image).reformat(format="yuv444p")],
        codec="libx264",
        aspect=Fraction(aspect.replace(":", "/")),
    )
    if turned:
        turn(path, (0, 1, -1, 0))
    found = next(read_frames(path, [0]))[..., 1] > 127
    assert found.shape == (size[::-1] if turned else size)
    assert found.sum(1).max() / found.sum(0).max() == pytest.approx(1, abs=0.05)  # two pixels of 40


def test_pixels_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="its pixels are 100 times as wide as high, expected 1/8 to 8"):
        square_pixels(4, 4, Fraction(100))
    assert square_pixels(4, 6, None) == square_pixels(4, 6, Fraction(0)) == (4, 6)


def dots(times, speed=60):
    """Frames with a dot that moves `speed` pixels a second."""
    frames = []
    for time in times:
        image = np.zeros((16, 320, 3), np.uint8)
        place = round(8 + speed * time / TICKS)
        image[4:12, place - 4 : place + 4] = 255
        frames.append(rgb(image).reformat(format="yuv444p"))
    return frames


def places(path, times):
    return [float((x[8, :, 1] > 127).nonzero()[0].mean() + 0.5) for x in read_frames(path, times)]


VARIABLE = [*range(0, 2 * TICKS, TICKS // 30), *range(2 * TICKS, 4 * TICKS + 1, TICKS // 10)]


@pytest.mark.parametrize(
    "name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mkv", "ffv1"), ("a.webm", "libvpx-vp9")]
)
@pytest.mark.parametrize("start", [0, 1500])
def test_a_dot_at_constant_speed_is_where_it_belongs(tmp_path, name, codec, start):
    path = write(
        tmp_path / name, dots(VARIABLE), [start + time for time in VARIABLE], codec, {"lossless": "1"}
    )
    assert np.abs(frame_times(path) - np.array(VARIABLE) / TICKS).max() < 2e-3
    wanted = np.arange(49) / 12
    found = np.array(places(path, wanted))
    half = np.where(wanted < 2, 1 / 60, 1 / 20)  # of a frame
    assert (np.abs(found - 8 - 60 * wanted) <= 60 * half + 1.1).all()  # pixels; the dot is at whole ones
    info = video_info(path)
    assert info.count == len(VARIABLE) and info.rate == pytest.approx((len(VARIABLE) - 1) / 4, abs=0.01)


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_a_constant_rate_gives_every_frame_once(tmp_path, rate):
    times = [round(k * TICKS / rate) for k in range(40)]
    for name in ("a.mp4", "a.mkv"):  # milliseconds in the second
        path = write(tmp_path / name, dots(times), times, "libx264", {"bf": "3"})
        info = video_info(path)
        assert info.count == 40 and places(path, info.times(range(40))) == pytest.approx(
            [8 + 60 * t / TICKS for t in times], abs=0.6
        )


def test_every_frame_of_a_rate_that_trembles_can_be_read(tmp_path):
    times = [round((k + 0.4 * (k % 2)) * TICKS / 30) for k in range(11)]
    times[-1] = times[-2] + TICKS // 300  # the last frame comes early, and ends before 10 / 30 s
    path = write(tmp_path / "a.mkv", dots(times), times, "ffv1", {})
    info = video_info(path)
    assert info.count == 11 and len(places(path, info.times(range(11)))) == 11


def test_the_earlier_of_two_frames_that_are_as_near_is_taken(monkeypatch):
    shown = [Shown(time, k, None, None) for k, time in enumerate((0.0, 0.1, 0.2))]
    monkeypatch.setattr("scene4d.video_files.frames._of_one_size", lambda path: iter(shown))
    found = _nearest("a.mp4", [0.05, 0.0501, 0.15])
    assert [frame.number for frame in found] == [0, 1, 1]


def test_times_that_go_back_stand_still(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", dots([0]), [0], "libx264", {})
    frames = [SimpleNamespace(time=time) for time in (1.0, 1.2, 1.1, 1.3)]
    monkeypatch.setattr("scene4d.video_files.streams._frames", lambda container, stream: iter(frames))
    assert [shown.time for shown in decoded(path)] == pytest.approx([0, 0.2, 0.2, 0.3])


def test_the_last_frame_stays_as_long_as_the_one_before(tmp_path):
    path = write(
        tmp_path / "a.mp4", dots(range(0, TICKS, TICKS // 10)), range(0, TICKS, TICKS // 10), "libx264"
    )
    assert places(path, [0, 0.949, 0.951, 1.0]) == pytest.approx([8, 62, 62, 62], abs=0.6)
    with pytest.raises(ValueError, match=r"a.mp4' ends at 1.00 s, expected a frame at 1.10 s"):
        places(path, [0, 1.1])
    assert list(read_frames(path, [])) == []


def test_times_may_be_cut_short(tmp_path):
    path = write(tmp_path / "a.mp4", dots(VARIABLE), VARIABLE, "libx264", {"bf": "3"})
    assert frame_times(path, until=1.0).tolist() == pytest.approx([k / 30 for k in range(32)])


def test_frames_that_change_their_size_are_refused(tmp_path):
    paths = [
        write(
            tmp_path / f"{n}.h264", [yuv(np.zeros((16 * n, 32, 3)), "yuv420p", 6, False)] * 2, codec="libx264"
        )
        for n in (1, 2)
    ]
    (tmp_path / "a.h264").write_bytes(paths[0].read_bytes() + paths[1].read_bytes())
    with pytest.raises(ValueError, match="a.h264' changes its size from 32x16 to 32x32 pixels at frame"):
        list(read_frames(tmp_path / "a.h264", [k / 25 for k in range(4)]))


@pytest.mark.parametrize("size", [(64, 128), (32, 1280)])
def test_what_we_write_names_its_colours_and_is_read_the_same_everywhere(tmp_path, size):
    image = np.tile(patches(), (1, 10, 1))[: size[0], : size[1]]
    (tmp_path / "sample.mp4").write_bytes(encode_video(np.stack([image] * 3), 12, crf=1))
    write_video(tmp_path / "shown.mp4", np.stack([image] * 3), 12)
    for name in ("sample.mp4", "shown.mp4"):
        with av.open(str(tmp_path / name)) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (
                6,
                1,
                1,
                13,
            )
        assert off(next(read_frames(tmp_path / name, [0])), image) <= 6  # compressed
    assert np.array_equal(
        decode_video((tmp_path / "sample.mp4").read_bytes())[0],
        next(read_frames(tmp_path / "sample.mp4", [0])),
    )
