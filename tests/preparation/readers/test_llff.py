"""poses_bounds.npy with pictures and with videos, written as LLFF documents it."""

import json

import numpy as np
import pytest
from miniature import FOCAL, POINTS, SIZE, arc, draw, prove, read
from PIL import Image

from preparation.readers.llff import LLFF
from preparation.readers.llff_video import LLFFVideo
from scene4d.sample_pictures import encode_video

MIDDLE = (SIZE[1] / 2, SIZE[0] / 2)
SQUARE = (FOCAL[0], FOCAL[0])


def moved(frame: int) -> np.ndarray:
    return POINTS + np.array([0.04, -0.03, 0.02]) * frame


def write_poses(folder, poses, scale):
    """Axes down, right, backward of pictures `scale` times as large."""
    rows = []
    for pose in poses:
        right, down, forward, place = pose[:3].T
        block = np.stack([down, right, -forward, place, np.array([*SIZE, FOCAL[0]]) * scale], axis=1)
        rows.append([*block.flatten(), 1.0, 9.0])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_scene(folder):
    write_poses(folder, arc(6), scale=4)
    (folder / "images_4").mkdir()
    for k, pose in enumerate(arc(6)):
        Image.fromarray(draw(pose, focal=SQUARE, centre=MIDDLE)).save(folder / f"images_4/IMG_{k:03d}.png")


def test_points_land_where_they_are_seen(tmp_path, record_property):
    write_scene(tmp_path / "raw/fern")
    write_scene(tmp_path / "raw/horns")
    (tmp_path / "raw/horns/images_4/IMG_002.png").unlink()
    write_scene(tmp_path / "raw/room")
    np.save(tmp_path / "raw/room/poses_bounds.npy", np.zeros((6, 14)))
    samples = read(LLFF, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "5", "--windows", "2")
    assert [sample.key for sample in samples] == ["llff-fern-00000", "llff-fern-00001"]
    prove(samples, tmp_path / "out", record_property)
    skipped = json.loads((tmp_path / "out/reports/llff-train-part-0-of-1.json").read_text())["skipped"]
    assert "images_4: 5 pictures, expected 6" in skipped["horns"]
    assert "has shape (6, 14), expected (n, 17)" in skipped["room"]


def test_moving_points_land_where_they_are_seen_in_videos(tmp_path, record_property):
    folder = tmp_path / "raw/coffee"
    write_poses(folder, arc(3), scale=1)
    for number, pose in zip((0, 1, 4), arc(3)):  # cameras 2 and 3 were left out
        video = [draw(pose, focal=SQUARE, centre=MIDDLE, points=moved(k)) for k in range(9)]
        (folder / f"cam{number:02d}.mp4").write_bytes(encode_video(np.stack(video), 30, crf=0))
    options = ("--size", "96x112", "--frames", "5", "--frame-stride", "2")
    samples = read(LLFFVideo, tmp_path / "raw", tmp_path / "out", *options)
    assert samples[0].images.shape == (3, 5, 96, 112, 3) and samples[0].fps == 15
    prove(samples, tmp_path / "out", record_property, lambda frame: moved(2 * frame), limit=0.2)


def test_rows_belong_to_plainly_sorted_pictures_and_the_path_is_natural(tmp_path, record_property):
    """LLFF sorted names as text, frame_10 before frame_7; dot files do not count."""
    names = [f"frame_{k}.JPG" for k in range(7, 13)]
    written = sorted(range(6), key=lambda k: names[k])
    folder = tmp_path / "raw/a"
    write_poses(folder, [arc(6)[k] for k in written], scale=4)
    (folder / "images_4").mkdir()
    for name, pose in zip(names, arc(6)):
        Image.fromarray(draw(pose, focal=SQUARE, centre=MIDDLE)).save(folder / "images_4" / name, quality=95)
    (folder / "images_4/._frame_7.JPG").write_bytes(b"macOS")
    (sample,) = read(LLFF, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "6")
    np.testing.assert_allclose(sample.c2w, np.stack(arc(6)), atol=1e-5)
    prove([sample], tmp_path / "out", record_property)


def write_rig(folder, names, size=SIZE):
    write_poses(folder, arc(len(names)), scale=1)
    for name, pose in zip(sorted(names), arc(len(names))):
        video = [draw(pose, size=size, focal=SQUARE, centre=MIDDLE, points=moved(k)) for k in range(5)]
        (folder / f"{name}.mp4").write_bytes(encode_video(np.stack(video), 30, crf=0))
    (folder / f"._{names[0]}.mp4").write_bytes(b"macOS")


def test_cameras_of_a_rig_are_named_held_out_and_left_out(tmp_path, record_property):
    names = ["cam00", "cam01", "cam9", "cam10"]
    write_rig(tmp_path / "raw/a", names)

    def views(output, *options):
        command = ("--size", "96", "--frames", "5", "--hold-out", "cam00", *options)
        (sample,) = read(LLFFVideo, tmp_path / "raw", tmp_path / output, *command)
        prove([sample], tmp_path / output, record_property, moved, limit=0.2)
        return sample.view_names

    assert views("val", "--split", "val") == names
    assert views("train") == ["cam01", "cam9", "cam10"]
    assert views("few", "--skip", "cam1*, cam9", "--split", "val") == ["cam00", "cam01"]
    for pattern, reason in (
        ("cam0", "no camera 'cam0' to leave out, expected one of"),
        ("?*", "leaves no camera"),
    ):
        with pytest.raises(SystemExit, match=reason):
            read(LLFFVideo, tmp_path / "raw", tmp_path / pattern[1:], "--frames", "5", "--skip", pattern)


def test_videos_of_another_shape_are_named(tmp_path):
    write_rig(tmp_path / "raw/a", ["cam00", "cam01"], size=(160, 160))
    with pytest.raises(SystemExit, match="cam00.mp4: is 160x160, 1 times as wide as high, but its camera's"):
        read(LLFFVideo, tmp_path / "raw", tmp_path / "out", "--frames", "5")
