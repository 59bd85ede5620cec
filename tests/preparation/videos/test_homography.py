"""2D videos to shards, from tiny real mp4 files with a cut, a still part and a fast pan."""

import json
import tracemalloc
import zlib

import numpy as np
import pytest
import webdataset

from preparation.videos import homography
from preparation.videos.package_videos import VIDEOS, find_package_videos
from preparation.videos.video_clips import Video, Window, cut_clips, find_shots, find_windows, random_square
from scene4d.sample_format import decode_sample
from scene4d.sample_pictures import encode_video
from scene4d.video_files import video_info

SIZE = 16


def moving_square(frames: int, colour: tuple[int, int, int], background: int) -> np.ndarray:
    """A textured frame 40 x 64 with a bright square that moves right."""
    rng = np.random.default_rng(0)
    still = np.clip(background + rng.integers(-20, 20, (40, 64, 1)), 0, 255).repeat(3, 2).astype(np.uint8)
    video = np.stack([still] * frames)
    for t in range(frames):
        video[t, 8:32, t % 40 : t % 40 + 20] = colour
    return video


@pytest.fixture
def two_shots(tmp_path):
    """25 frames a second, a cut at frame 40 of 80."""
    frames = np.concatenate([moving_square(40, (255, 40, 40), 60), moving_square(40, (40, 255, 40), 180)])
    path = tmp_path / "Red then-green.mp4"
    path.write_bytes(encode_video(frames, 25))
    return path


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch):
    monkeypatch.setattr(
        homography, "embed_captions", lambda names: (np.ones((len(names), 1, 384), np.float32), "e")
    )


def read_shard(path):
    return [decode_sample(x) for x in webdataset.WebDataset(str(path), shardshuffle=False)]


def test_cut_is_found_and_a_pan_is_none(two_shots):
    assert find_shots(Video(two_shots, video_info(two_shots), 40).previews()) == [(0, 40), (40, 80)]
    texture = np.random.default_rng(0).integers(0, 255, (40, 400, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0)[:40].repeat(8, 1)
    pan = np.stack([texture[:, 30 * t : 30 * t + 64] for t in range(20)])
    assert find_shots(pan) == [(0, 20)]


def test_memory_is_bounded_by_the_window(tmp_path):
    """600 frames of 48 x 64 are 5.5 MB, of two overlapping clips of 9 frames .2 MB."""
    path = tmp_path / "long.mp4"
    path.write_bytes(encode_video(np.concatenate([moving_square(40, (255, 40, 40), 60)] * 15), 25))
    tracemalloc.start()
    video = Video(path, video_info(path), 40)
    windows = find_windows(find_shots(video.previews()), 25, 9, 12)
    found = list(zip(*cut_clips(video, windows, 80, 9, SIZE, 0)))[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 80 and peak < 2e6


def test_windows_stay_inside_shots_and_near_the_wanted_rate():
    windows = find_windows([(0, 12), (12, 40)], fps=24, num_frames=9, target_fps=12)
    assert {w.stride for w in windows if w.start < 12} == {1}  # 12 frames hold no window of stride 2
    assert {w.stride for w in windows if w.start >= 12} == {2}
    assert all(w.start + 8 * w.stride < (12 if w.start < 12 else 40) for w in windows)
    assert len(windows) == 4 + 12
    assert find_windows([(0, 8)], 24, 9, 12) == []
    assert find_windows([(0, 9)], 10, 9, 12) == [Window(0, 1)]


def test_squares_lie_inside_and_never_ask_for_more_than_there_is():
    rng = np.random.default_rng(0)
    for height, width in ((40, 64), (64, 40), (10, 12)):
        boxes = np.array([random_square(height, width, SIZE, rng) for _ in range(200)])
        sides = boxes[:, 2] - boxes[:, 0]
        assert (sides == boxes[:, 3] - boxes[:, 1]).all()
        assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
        assert sides.min() >= min(SIZE, height, width) and sides.max() == min(height, width)


def test_command_writes_readable_clips_of_one_shot_each(two_shots, tmp_path):
    options = ["--videos", str(tmp_path / "*.mp4"), "--output", str(tmp_path / "out"), "--split", "train"]
    options += ["--clips", "6", "--frames", "9", "--size", str(SIZE)]
    homography.main([*options, "--license", "CC0-1.0, me"])
    samples = read_shard(tmp_path / "out" / "homography-train-000000.tar")
    assert len({sample.key for sample in samples}) == len(samples) == 6
    for sample in samples:
        assert sample.images.shape == (1, 9, SIZE, SIZE, 3)
        assert sample.c2w is None and sample.intrinsics is None and sample.depths is None
        assert (sample.source, sample.group, sample.caption) == (
            "homography",
            "red_then_green",
            "red then green",
        )
        assert sample.license == "CC0-1.0, me" and sample.fps == 12.5
        assert sample.text.shape == (1, 384) and sample.text_encoder == "e"
        brightness = sample.images.astype(float).mean((0, 2, 3, 4))
        assert np.abs(np.diff(brightness)).max() < 25  # the backgrounds differ by 120
        assert np.abs(np.diff(sample.images[0].astype(float), axis=0)).mean() > 0.6
    assert len({round(sample.images.mean() / 40) for sample in samples}) > 1, "both shots are used"


def test_same_seed_same_clips(two_shots):
    def clips(seed):
        video = homography.SourceVideo(two_shots, "a", "", "", "a")
        return np.stack([x.images for x in homography.Clips(3, 9, SIZE, 12, seed, {}).read(video)])

    assert np.array_equal(clips(0), clips(0))
    assert not np.array_equal(clips(0), clips(1))


def run(folder, output, *more):
    options = [
        "--videos",
        str(folder / "*.mp4"),
        "--output",
        str(output),
        "--frames",
        "9",
        "--size",
        str(SIZE),
    ]
    homography.main([*options, "--clips", "3", *more])
    return {path.name: path.read_bytes() for path in output.glob("*.tar")}


def report(output):
    return json.loads((output / "reports" / "homography-train-part-0-of-1.json").read_text())


def test_videos_are_mixed_in_a_shard_and_what_gives_no_clip_is_reported(two_shots, tmp_path):
    (tmp_path / "other.mp4").write_bytes(two_shots.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    still = np.random.default_rng(0).integers(0, 255, (1, 40, 64, 3), dtype=np.uint8).repeat(40, 0)
    (tmp_path / "still.mp4").write_bytes(encode_video(still, 25))
    (tmp_path / "short.mp4").write_bytes(encode_video(moving_square(5, (255, 0, 0), 60), 25))
    run(tmp_path, tmp_path / "out")
    keys = [sample.key for sample in read_shard(tmp_path / "out" / "homography-train-000000.tar")]
    assert len(keys) == 6 and keys == sorted(keys, key=lambda key: zlib.crc32(key.encode())) != sorted(keys)
    skipped = report(tmp_path / "out")["skipped"]
    assert skipped["still"] == "40 frames give no clip: too short, or nothing moves"
    assert skipped["short"] == "5 frames give no clip: too short, or nothing moves"
    assert "broken.mp4' cannot be decoded" in skipped["broken"] and len(skipped) == 3


def test_restarts_and_parts_give_the_same_shards(two_shots, tmp_path):
    (tmp_path / "other.mp4").write_bytes(two_shots.read_bytes())
    whole = run(tmp_path, tmp_path / "a", "--shard-size", "1")
    assert len(whole) == 2
    (tmp_path / "a" / "homography-train-000001.tar").unlink()
    before = (tmp_path / "a" / "homography-train-000000.tar").stat().st_mtime_ns
    assert run(tmp_path, tmp_path / "a", "--shard-size", "1") == whole
    assert (tmp_path / "a" / "homography-train-000000.tar").stat().st_mtime_ns == before
    for part in ("0/2", "1/2"):
        parts = run(tmp_path, tmp_path / "b", "--shard-size", "1", "--part", part)
    assert parts == whole
    with pytest.raises(SystemExit, match="made from other scenes or options"):
        run(tmp_path, tmp_path / "a", "--shard-size", "1", "--seed", "1")


def test_wrong_input_is_named(tmp_path):
    rest = ["--output", str(tmp_path), "--split", "train"]
    with pytest.raises(SystemExit, match="nothing-here"):
        homography.main(["--videos", str(tmp_path / "nothing-here*.mp4"), *rest])
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(SystemExit, match="none of 1 scenes could be used; first: broken: .*broken.mp4"):
        homography.main(["--videos", str(tmp_path / "broken.mp4"), *rest])
    with pytest.raises(SystemExit, match="unpack the packages"):
        homography.main(["--packages", str(tmp_path), *rest])


def test_package_videos_keep_splits_apart(tmp_path):
    for group in {video.group or video.name for video in VIDEOS}:
        members = [video for video in VIDEOS if (video.group or video.name) == group]
        assert len({video.split for video in members}) == 1
    assert {video.split for video in VIDEOS if video.shipped} == {"train", "val"}
    assert not [video.name for video in VIDEOS if video.shipped and "unclear" in video.license]
    for path in ("a/Sports2D/Demo/demo.mp4", "b/data/vtest.avi", "b/vtest.avi"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    names = lambda **options: {v.name for _, v in find_package_videos(tmp_path, "train", **options)}  # noqa: E731
    assert names(shipped_only=False) == {"sports2d_demo", "vtest"}
    assert names(shipped_only=True) == {"sports2d_demo"}
