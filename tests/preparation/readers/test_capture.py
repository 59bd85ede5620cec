"""A calibrated take: conventions of the file, the lens, crops that carry their intrinsics."""

import json

import numpy as np
import pytest
import webdataset

from preparation.readers import capture
from preparation.readers.qualisys import read_calibration
from preparation.writing import jobs
from scene4d.sample_format import decode_sample
from scene4d.sample_pictures import encode_video

# the first camera of pose2sim's demo, as its calibration file has it
CAMERA = """<camera active="1" serial="cam{name}">
  <fov_video bottom="1919" left="0" right="1087" top="0"/>
  <transform r11="0.5536380477336265" r12="0.8046719867383512" r13="0.2144479094331626"
    r21="-0.4345300743838753" r22="0.05946489349975602" r23="0.8986921279821063"
    r31="0.7104002579937896" r32="-0.5907342212870501" r33="0.3825762057979294"
    x="1460.2323709212087" y="-1909.1590482454608" z="1896.5058524092062"/>
  <intrinsic centerPointU="34110.316406" centerPointV="60680.792969" focalLengthU="107599.671875"
    focalLengthV="107588.828125" radialDistortion1="-0.046183" radialDistortion2="0.139983"
    radialDistortion3="0.0" tangentalDistortion1="0.000608" tangentalDistortion2="0.00069"/>
</camera>"""
# corners of the treadmill in metres, and where they were seen in that camera's picture
MARKS = np.array([[-2.0, 0.3, 0.0], [-2.0, -0.3, 0.0], [0.0, 0.3, 0.0], [0.0, -0.3, 0.0]])
SEEN = np.array([[330, 975], [116, 991], [842, 1462], [583, 1552]])


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / "Calib.qca.txt"
    cameras = CAMERA.format(name="01") + CAMERA.format(name="02")
    path.write_text(f"<?xml version='1.0'?><calibration><cameras>{cameras}</cameras></calibration>")
    return path


@pytest.fixture
def take(tmp_path, calibration):
    """Two videos of 136 x 240 pixels, an eighth of the calibrated size, in which a bright disc moves."""
    folder = tmp_path / "Demo_Tiny"
    (folder / "videos").mkdir(parents=True)
    (folder / "calibration").mkdir()
    calibration.rename(folder / "calibration" / calibration.name)
    y, x = np.mgrid[:240, :136]
    frames = np.full((12, 240, 136, 3), 60, np.uint8)
    for t in range(12):
        frames[t, (x - 40 - 4 * t) ** 2 + (y - 120) ** 2 < 15**2] = 255
    for name in ("cam01", "cam02"):
        (folder / "videos" / f"{name}.mp4").write_bytes(encode_video(frames, 60))
    return folder


def test_known_points_project_where_they_were_seen(calibration):
    camera = read_calibration(calibration)[0]
    assert camera.name == "cam01" and camera.size == (1088, 1920)
    np.testing.assert_allclose(camera.project(MARKS), SEEN, atol=5)
    rotation = camera.c2w[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert (
        np.linalg.det(rotation) == pytest.approx(1) and rotation[2, 1] < 0
    )  # y points down, z of the world up
    np.testing.assert_allclose(camera.c2w[:3, 3], [1.460, -1.909, 1.897], atol=1e-3)


def test_resized_camera_sees_the_same_points_scaled_about_the_centre(calibration):
    camera = read_calibration(calibration)[0]
    half = camera.resized(544, 980)
    expected = (camera.project(MARKS) - [544, 960]) / 2 + [272, 490]
    np.testing.assert_allclose(half.project(MARKS), expected, atol=1e-6)


def test_resampled_crop_follows_its_intrinsics_and_loses_the_lens(calibration):
    """Dots drawn through the real lens must appear where the pinhole camera of the crop says."""
    camera = read_calibration(calibration)[0].resized(272, 480)
    camera.distortion = camera.distortion * 5  # far more than the crop's pixels
    y, x = np.mgrid[:480, :272] + 0.5
    places = camera.project(MARKS)
    distance2 = ((np.stack([x, y], -1)[None] - places[:, None, None]) ** 2).sum(-1)
    size = 128
    pinhole = capture.crop_intrinsics(camera.intrinsics, (10.0, 220.0, 230.0), size)
    local = (MARKS - camera.c2w[:3, 3]) @ camera.c2w[:3, :3] @ pinhole.T
    expected = local[:, :2] / local[:, 2:]
    centres = np.mgrid[:size, :size][::-1].reshape(2, -1).T + 0.5
    for k in range(len(MARKS)):
        frame = (255 * np.exp(-distance2[k] / 18)).astype(np.uint8)[..., None].repeat(3, -1)
        image = capture.resample(frame[None], camera, pinhole, size)[0, ..., 0].reshape(-1, 1).astype(float)
        assert image.max() > 150
        np.testing.assert_allclose((image * centres).sum(0) / image.sum(), expected[k], atol=0.25)
    shift = np.abs(
        places - (camera.intrinsics @ (local @ np.linalg.inv(pinhole).T).T).T[:, :2] / local[:, 2:]
    )
    assert shift.max() > 1, "the lens must matter for this test to mean anything"


def test_resampling_averages_areas():
    frames = np.indices((64, 64)).sum(0) % 2 * 200
    frames = frames[None, ..., None].repeat(3, -1).astype(np.uint8)
    camera = type(
        "Plain", (), {"intrinsics": np.diag([64.0, 64.0, 1.0]), "distort": staticmethod(lambda x: x)}
    )
    camera.intrinsics[:2, 2] = 32
    small = capture.resample(frames, camera, capture.crop_intrinsics(camera.intrinsics, (0, 0, 64), 16), 16)
    assert np.abs(small[0, 1:-1, 1:-1].astype(int) - 100).max() <= 1


def test_square_holds_what_moves(take):
    frames, info = capture.read_clip(take / "videos" / "cam01.mp4", 12, 1, 0)
    left, top, side = capture.moving_square(frames)
    assert info.rate == 60
    assert left <= 32 and left + side >= 92 and top <= 112 and top + side >= 128  # found in steps of 8
    assert side < 110


def test_command_writes_one_sample_a_take(take, tmp_path, monkeypatch):
    monkeypatch.setattr(
        jobs, "embed_captions", lambda names: (np.ones((len(names), 1, 384), np.float32), "e")
    )
    broken = tmp_path / "Broken"
    broken.mkdir()
    options = ["--takes", str(take), str(broken), "--output", str(tmp_path / "out"), "--size", "32"]
    options += ["--frames", "5", "--stride", "2", "--start", "1"]
    capture.main(options)
    shard = tmp_path / "out" / "capture-val-000000.tar"
    report = json.loads((tmp_path / "out" / "reports" / "capture-val-part-0-of-1.json").read_text())
    assert report["samples"] == 1 and "holds 0 files" in report["skipped"]["broken"]
    made = shard.stat().st_mtime_ns
    capture.main(options)
    assert shard.stat().st_mtime_ns == made
    with pytest.raises(SystemExit, match="capture: .*was made from other scenes or options"):
        capture.main([*options, "--start", "2"])
    (members,) = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    sample = decode_sample(members)
    assert sample.key == sample.group == "demo_tiny" and sample.source == "capture" and sample.fps == 30
    assert sample.images.shape == (2, 5, 32, 32, 3) and sample.c2w.shape == (2, 4, 4)
    bright = (sample.images[0] > 200).all(-1)
    columns = [np.nonzero(frame)[1].mean() for frame in bright]
    # 8 pixels a step of the 136 pixel wide video, whose focal length is 1681.2 / 8
    step = 8 * sample.intrinsics[0, 0, 0] / (107599.67 / 64 / 8)
    np.testing.assert_allclose(np.diff(columns), step, rtol=0.15)


def test_turned_videos_are_named_and_cameras_left_out(take, tmp_path, monkeypatch):
    monkeypatch.setattr(
        jobs, "embed_captions", lambda names: (np.ones((len(names), 1, 384), np.float32), "e")
    )
    options = ["--takes", str(take), "--size", "32", "--frames", "5", "--stride", "2", "--output"]
    capture.main([*options, str(tmp_path / "one"), "--skip", "cam01", "--start", "1"])
    (members,) = list(webdataset.WebDataset(f"{tmp_path}/one/capture-val-000000.tar", shardshuffle=False))
    assert len(decode_sample(members).images) == 1
    path = take / "videos" / "cam01.mp4"
    frames, _ = capture.read_clip(path, 12, 1, 0)
    path.write_bytes(encode_video(np.rot90(frames, axes=(1, 2)).copy(), 60))
    with pytest.raises(SystemExit, match="cam01.mp4: is 240x136, .*as if one of them were turned"):
        capture.main([*options, str(tmp_path / "turned"), "--start", "1"])


def test_wrong_input_is_named(take, tmp_path):
    sample = lambda window: list(capture.Takes(16, *window, "", "").read(take))  # noqa: E731
    with pytest.raises(ValueError, match="cam01.mp4 has 6 of the 9 frames"):
        sample((9, 2, 0))
    (take / "videos" / "cam02.mp4").rename(take / "videos" / "cam07.mp4")
    with pytest.raises(ValueError, match="cam07.mp4 has no camera"):
        sample((5, 1, 0))
    (take / "calibration" / "Calib.qca.txt").write_text("<calibration/>")
    with pytest.raises(ValueError, match="no active camera"):
        sample((5, 1, 0))
    (take / "calibration" / "Calib.qca.txt").write_text("serial,x,y")
    with pytest.raises(ValueError, match="no Qualisys calibration"):
        sample((5, 1, 0))
    (take / "calibration" / "Calib.qca.txt").unlink()
    with pytest.raises(ValueError, match="holds 0 files"):
        sample((5, 1, 0))
