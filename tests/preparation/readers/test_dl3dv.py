"""DL3DV's folders, written as nerfstudio documents transforms.json."""

import json

import numpy as np
import pytest
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image

from preparation.readers.dl3dv import DL3DV
from preparation.rendering.lens import distort, distort_fisheye

WINDOW = ("--size", "96x112", "--views", "4", "--windows", "2")
LENS = {"k1": -0.3, "k2": 0.2, "p1": 0.02, "p2": -0.01}


def opencv_lens(plane, values=LENS):
    """OpenCV's formula, a point at a time."""
    k1, k2, k3, k4, k5, k6, p1, p2 = (
        values.get(n, 0) for n in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    )
    result = []
    for x, y in plane:
        r2 = x * x + y * y
        f = (1 + k1 * r2 + k2 * r2 * r2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2 * r2 + k6 * r2**3)
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        result.append((x * f + dx, y * f + dy))
    return np.array(result)


def fisheye(plane, values):
    """OpenCV's fisheye model, a point at a time."""
    result = []
    for x, y in plane:
        r = np.hypot(x, y)
        a = np.arctan(r)
        bent = a + sum(values.get(f"k{n}", 0) * a ** (2 * n + 1) for n in (1, 2, 3, 4))
        result.append((x * bent / r, y * bent / r))
    return np.array(result)


def write_scene(folder, lens: bool, count=6, **changed):
    """Cameras of pictures 4 times as large; OpenGL: y up, z backward. `changed`: None takes a key away."""
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
            **(LENS if lens else {}), "frames": frames[::-1], **changed}  # fmt: skip
    meta = {name: value for name, value in meta.items() if value is not None}
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


SQUARE = {"focal": (FOCAL[0], FOCAL[0]), "centre": (SIZE[1] / 2, SIZE[0] / 2)}
ANGLES = {axis: 2 * np.arctan(side / 2 / FOCAL[0]) for axis, side in zip("xy", SIZE[::-1])}
MIDDLE = {"cx": None, "cy": None}


def redraw(folder, **camera):
    for k, pose in enumerate(arc(6)):
        Image.fromarray(draw(pose, **camera)).save(folder / "images_4" / f"frame_{k + 1:05d}.png")


@pytest.mark.parametrize(
    ("changed", "camera"),
    [
        ({"fl_y": None, **MIDDLE}, SQUARE),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": ANGLES["x"], **MIDDLE}, SQUARE),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": ANGLES["x"], **MIDDLE, "w": None, "h": None}, SQUARE),
        (
            {
                "fl_x": None,
                "fl_y": None,
                "camera_angle_x": ANGLES["x"],
                "camera_angle_y": ANGLES["y"],
                **MIDDLE,
                "camera_model": None,
            },
            SQUARE,
        ),
        (
            {"k1": -0.2, "k2": 0.1, "k3": 1000.0},
            {"lens": lambda p: opencv_lens(p, {"k1": -0.2, "k2": 0.1, "k3": 1000.0})},
        ),
        (
            {"camera_model": "FULL_OPENCV", "k1": 0.9, "k4": 0.2, "k5": 0.3, "k6": 0.5, "p1": 0.01},
            {"lens": lambda p: opencv_lens(p, {"k1": 0.9, "k4": 0.2, "k5": 0.3, "k6": 0.5, "p1": 0.01})},
        ),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": -0.3, "k2": 4.0, "k3": 150.0, "k4": 3e3},
            {"lens": lambda p: fisheye(p, {"k1": -0.3, "k2": 4.0, "k3": 150.0, "k4": 3e3})},
        ),
        ({"camera_model": "OPENCV_FISHEYE"}, {"lens": lambda p: fisheye(p, {})}),
        ({"camera_model": "SIMPLE_RADIAL", "k1": -0.3}, {"lens": lambda p: opencv_lens(p, {"k1": -0.3})}),
        ({"applied_transform": [[1, 0, 0, 0]] * 3, "ply_file_path": "x.ply", "k4": 0}, {}),
    ],
)
def test_every_way_to_say_the_intrinsics(tmp_path, record_property, changed, camera):
    write_scene(tmp_path / "raw/a", lens=False, **changed)
    redraw(tmp_path / "raw/a", **camera)
    samples = read(DL3DV, tmp_path / "raw", tmp_path / "out", *WINDOW)
    prove(samples, tmp_path / "out", record_property, limit=0.3)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"k4": 0.1}, "k4 is 0.1, but camera_model OPENCV does not use it; expected 0"),
        ({"k6": 1e-5, "camera_model": "PINHOLE"}, "k6 is 1e-05, but camera_model PINHOLE does not use it"),
        (
            {"p1": 0.1, "camera_model": "OPENCV_FISHEYE"},
            "p1 is 0.1, but camera_model OPENCV_FISHEYE does not",
        ),
        ({"distortion_params": [0, 0.2]}, "distortion_params is"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model EQUIRECTANGULAR, expected one of"),
        ({"fl_x": "500"}, "fl_x is '500', expected a number"),
        ({"w": 0}, "w is 0.0, expected a number above 0"),
        (
            {"fl_x": None, "fl_y": None, "camera_angle_x": 4.0},
            "camera_angle_x is 4.0, expected radians below pi",
        ),
        ({"w": None}, "expected keys 'w' and 'h', since"),
        (
            {"h": SIZE[0] * 3},
            "frame_00001.png: is 160x120, 1.333 times as wide as high, but its camera's pictures",
        ),
        ({"w": SIZE[0] * 4, "h": SIZE[1] * 4}, "as if one of them were turned"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, changed, reason):
    write_scene(tmp_path / "raw/a", lens=False, **changed)
    with pytest.raises(SystemExit, match="a/") as error:
        read(DL3DV, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert reason in str(error.value)


def test_values_of_a_frame_come_first(tmp_path, record_property):
    write_scene(tmp_path / "raw/a", lens=False, fl_x=1.0, fl_y=1.0, k1=5.0)
    path = tmp_path / "raw/a/transforms.json"
    meta = json.loads(path.read_text())
    for k, frame in enumerate(meta["frames"]):
        pixels = {"fl_x": FOCAL[0] * 4, "fl_y": FOCAL[1] * 4}
        angles = {f"camera_angle_{a}": 2 * np.arctan(s / 2 / f) for a, s, f in zip("xy", SIZE[::-1], FOCAL)}
        frame |= {"k1": 0, **(pixels if k % 2 else angles)}
    path.write_text(json.dumps(meta))
    samples = read(DL3DV, tmp_path / "raw", tmp_path / "out", *WINDOW)
    prove(samples, tmp_path / "out", record_property, limit=0.15)


def test_frames_are_read_in_natural_order_from_their_own_folders(tmp_path):
    """frame_7 to frame_11 of two cameras in folders with the same names of files; dot files beside them."""
    scene = tmp_path / "raw/a"
    frames = []
    for k, pose in zip(range(7, 12), arc(5)):
        for side in ("left", "right"):
            (scene / "images_4" / side).mkdir(parents=True, exist_ok=True)
            grey = 10 * k + (side == "right")
            Image.new("RGB", (32, 24), (grey,) * 3).save(scene / "images_4" / side / f"frame_{k}.png")
            matrix = (pose @ np.diag([1, -1, -1, 1])).tolist()
            frames.append({"file_path": f"images\\{side}\\frame_{k}.png", "transform_matrix": matrix})
    (scene / "images_4/left/._frame_7.png").write_bytes(b"macOS")
    meta = {"w": 64, "h": 48, "fl_x": 60, "mask_path": "m", "frames": frames}
    (scene / "transforms.json").write_text(json.dumps(meta))
    (sample,) = read(DL3DV, tmp_path / "raw", tmp_path / "out", "--size", "24", "--views", "10")
    expected = [10 * k + side for side in (0, 1) for k in range(7, 12)]
    assert sample.images[:, 0, 12, 12, 0].tolist() == expected


def test_lenses_are_opencvs():
    """Every coefficient counts, with values that no real lens has."""
    rays = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    values = {"k1": -0.3, "k2": 0.2, "p1": 0.02, "p2": -0.01, "k3": 0.5, "k4": 0.4, "k5": 0.3, "k6": 0.2}
    for count in (4, 5, 8):
        some = dict(list(values.items())[:count])
        np.testing.assert_allclose(distort(rays, list(some.values())), opencv_lens(rays, some), atol=1e-12)
    ks = {name: values[name] for name in ("k1", "k2", "k3", "k4")}
    np.testing.assert_allclose(distort_fisheye(rays, list(ks.values())), fisheye(rays, ks), atol=1e-12)
    assert (distort_fisheye(np.zeros((1, 2)), list(ks.values())) == 0).all()
