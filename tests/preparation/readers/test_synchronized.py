"""SynCamVideo's and MultiCamVideo's folders, written as their cards and vis_cam.py describe them."""

import json

import numpy as np
from miniature import POINTS, arc, draw, prove, read

from preparation.readers.synchronized import Synchronized
from scene4d.sample_pictures import encode_video

SIDE = 128
FOCAL = (35 / 23.76 * SIDE,) * 2
MIDDLE = (SIDE / 2, SIDE / 2)
CLIP = ("--size", "96", "--frames", "5", "--instants", "2")


def moved(frame: int) -> np.ndarray:
    return POINTS + np.array([0.03, 0.02, -0.04]) * frame


def unreal(pose) -> str:
    """Our world (x right, y down, z forward, metres) as Unreal's (X forward, Y right, Z up, centimetres)."""
    basis = {"X": 2, "Y": 0, "Z": 1}
    sign = {"X": 1, "Y": 1, "Z": -1}
    to_unreal = np.array([sign[a] * np.eye(3)[basis[a]] for a in "XYZ"])
    right, down, forward, place = (to_unreal @ column for column in pose[:3].T)
    rows = [*(np.append(axis, 0) for axis in (forward, right, -down)), np.append(100 * place, 1)]
    return " ".join("[" + " ".join(f"{x:.6f}" for x in row) + "]" for row in rows) + " "


def write_scene(scene, poses, frames=5):
    """`poses[camera][frame]`."""
    (scene / "videos").mkdir(parents=True)
    (scene / "cameras").mkdir()
    for number, path in enumerate(poses, 1):
        video = [draw(path[k], (SIDE, SIDE), FOCAL, MIDDLE, points=moved(k)) for k in range(frames)]
        (scene / f"videos/cam{number:02d}.mp4").write_bytes(encode_video(np.stack(video), 15, crf=0))
    cameras = {
        f"frame{k}": {f"cam{n:02d}": unreal(path[k]) for n, path in enumerate(poses, 1)}
        for k in range(frames)
    }
    (scene / "cameras/camera_extrinsics.json").write_text(json.dumps(cameras))


def in_their_world(points):
    """The reader's world: Unreal's with its y axis flipped, in metres."""
    return np.stack([points[:, 2], -points[:, 0], -points[:, 1]], axis=1)


def test_still_cameras_become_clips(tmp_path, record_property):
    root = tmp_path / "raw"
    write_scene(root / "f35_aperture2.4/scene1", [[pose] * 5 for pose in arc(3)])
    write_scene(root / "unknown/scene2", [[pose] * 5 for pose in arc(2)])
    write_scene(root / "f35_aperture2.4/scene3", [[pose] * 5 for pose in arc(2)])
    (root / "f35_aperture2.4/scene3/videos/cam02.mp4").write_bytes(b"no video")
    samples = read(Synchronized, root, tmp_path / "out", *CLIP)
    assert [sample.images.shape for sample in samples] == [(3, 5, 96, 96, 3)] and samples[0].fps == 15
    prove(samples, tmp_path / "out", record_property, lambda k: in_their_world(moved(k)), limit=0.2)
    report = tmp_path / "out/reports/synchronized-train-part-0-of-1.json"
    skipped = json.loads(report.read_text())["skipped"]
    assert "the focal length is unknown" in skipped["unknown/scene2"]
    assert "cam02.mp4' cannot be decoded" in skipped["f35_aperture2.4/scene3"]


def test_moving_cameras_become_stills(tmp_path, record_property):
    path = arc(10)
    write_scene(tmp_path / "raw/f35_aperture2.4/scene1", [path[:5], path[:4:-1]])
    samples = read(Synchronized, tmp_path / "raw", tmp_path / "out", *CLIP)
    assert [sample.key[-5:] for sample in samples] == ["00001", "00004"]
    first, second = samples
    assert first.images.shape == (2, 1, 96, 96, 3)
    prove([first], tmp_path / "out", record_property, lambda _: in_their_world(moved(1)), limit=0.2)
    prove([second], tmp_path / "out", record_property, lambda _: in_their_world(moved(4)), limit=0.2)
