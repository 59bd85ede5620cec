"""DL3DV's folders, written as nerfstudio documents transforms.json."""

import json

import numpy as np
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image

from preparation.readers.dl3dv import DL3DV

WINDOW = ("--size", "96x112", "--views", "4", "--windows", "2")
LENS = {"k1": -0.3, "k2": 0.2, "p1": 0.02, "p2": -0.01}


def opencv_lens(plane):
    """OpenCV's formula, a point at a time."""
    result = []
    for x, y in plane:
        r2 = x * x + y * y
        f = 1 + LENS["k1"] * r2 + LENS["k2"] * r2 * r2
        dx = 2 * LENS["p1"] * x * y + LENS["p2"] * (r2 + 2 * x * x)
        dy = LENS["p1"] * (r2 + 2 * y * y) + 2 * LENS["p2"] * x * y
        result.append((x * f + dx, y * f + dy))
    return np.array(result)


def write_scene(folder, lens: bool, count=6):
    """Cameras of pictures 4 times as large; OpenGL: y up, z backward."""
    (folder / "images_4").mkdir(parents=True)
    frames = []
    for k, pose in enumerate(arc(count)):
        gl = pose.copy()
        gl[:3, 1] *= -1
        gl[:3, 2] *= -1
        frames.append({"file_path": f"images/frame_{k + 1:05d}.png", "transform_matrix": gl.tolist()})
        picture = draw(pose, lens=opencv_lens if lens else None)
        Image.fromarray(picture).save(folder / "images_4" / f"frame_{k + 1:05d}.png")
    meta = {"w": SIZE[1] * 4, "h": SIZE[0] * 4, "fl_x": FOCAL[0] * 4, "fl_y": FOCAL[1] * 4,
            "cx": CENTRE[0] * 4, "cy": CENTRE[1] * 4, "camera_model": "OPENCV",
            **(LENS if lens else {}), "frames": frames[::-1]}  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(meta))


def test_points_land_where_they_are_seen(tmp_path, record_property):
    write_scene(tmp_path / "raw/1K/pinhole", lens=False)
    write_scene(tmp_path / "raw/1K/lens", lens=True)
    samples = read(DL3DV, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.key for sample in samples] == [
        f"dl3dv-1K-{name}-{first:05d}" for name in ("lens", "pinhole") for first in (0, 2)
    ]
    prove(samples, tmp_path / "out", record_property, limit=0.15)


def test_missing_key_and_picture_are_named(tmp_path):
    for name in "abc":
        write_scene(tmp_path / "raw" / name, lens=False)
    path = tmp_path / "raw/a/transforms.json"
    meta = json.loads(path.read_text())
    del meta["fl_x"]
    path.write_text(json.dumps(meta))
    (tmp_path / "raw/b/images_4/frame_00003.png").unlink()
    samples = read(DL3DV, tmp_path / "raw", tmp_path / "out", *WINDOW, "--windows", "1")
    assert [sample.group for sample in samples] == ["c"]
    skipped = json.loads((tmp_path / "out/reports/dl3dv-train-part-0-of-1.json").read_text())["skipped"]
    assert "a/transforms.json: expected a key 'fl_x'" in skipped["a"]
    assert "frame_00003.png: expected a picture" in skipped["b"]
