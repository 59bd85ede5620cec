"""COLMAP models, binary and text, written as https://colmap.github.io/format.html documents them."""

import json
import logging
import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image
from scipy.spatial.transform import Rotation

from preparation.readers.colmap import Colmap, _with_poses
from preparation.readers.picture_shape import Shape

pytest.importorskip("pycolmap")
WINDOW = ("--size", "96", "--views", "4", "--windows", "1")
RADIAL = -0.15


def write_pictures(folder, lens=None):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for k, pose in enumerate(arc(6)):
        focal = FOCAL if lens is None else (FOCAL[0], FOCAL[0])
        Image.fromarray(draw(pose, focal=focal, lens=lens)).save(folder / "images" / f"{k:03d}.png")
        w2c = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        rows.append((k + 1, (w, x, y, z, *w2c[:3, 3]), f"{k:03d}.png"))
    return rows[::-1]  # the order of a model is not that of its names


def write_binary(folder, place="sparse/0", count=6):
    """A PINHOLE camera (model 1), as COLMAP's binary format, that saw the first `count` pictures."""
    rows, model = write_pictures(folder)[-count:], folder / place
    model.mkdir(parents=True)
    camera = struct.pack("<QIiQQ4d", 1, 1, 1, SIZE[1], SIZE[0], *FOCAL, *CENTRE)  # one camera, id, model
    (model / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", len(rows))
    for number, pose, name in rows:
        images += struct.pack("<I7dI", number, *pose, 1) + name.encode() + b"\0" + struct.pack("<Q", 0)
    (model / "images.bin").write_bytes(images)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def write_text(folder):
    """A SIMPLE_RADIAL camera, as COLMAP's text format."""
    rows = write_pictures(folder, lens=lambda p: p * (1 + RADIAL * (p**2).sum(1, keepdims=True)))
    model = folder / "sparse/0"
    model.mkdir(parents=True)
    camera = f"1 SIMPLE_RADIAL {SIZE[1]} {SIZE[0]} {FOCAL[0]} {CENTRE[0]} {CENTRE[1]} {RADIAL}\n"
    (model / "cameras.txt").write_text("# cameras\n" + camera)
    lines = [f"{number} {' '.join(map(str, pose))} 1 {name}\n\n" for number, pose, name in rows]
    (model / "images.txt").write_text("".join(lines))
    (model / "points3D.txt").write_text("")


def test_points_land_where_they_are_seen(tmp_path, record_property):
    write_binary(tmp_path / "raw/binary")
    write_text(tmp_path / "raw/text")
    samples = read(Colmap, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.key for sample in samples] == ["colmap-binary-00001", "colmap-text-00001"]
    prove(samples, tmp_path / "out", record_property, limit=0.15)


def test_broken_model_is_named(tmp_path):
    write_binary(tmp_path / "raw/good")
    write_binary(tmp_path / "raw/cut")
    path = tmp_path / "raw/cut/sparse/0/images.bin"
    path.unlink()
    samples = read(Colmap, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.group for sample in samples] == ["good"]
    skipped = json.loads((tmp_path / "out/reports/colmap-train-part-0-of-1.json").read_text())["skipped"]
    assert "cut/sparse/0: expected a COLMAP model" in skipped["cut"]


@pytest.mark.parametrize(
    "places",
    [
        {"sparse/0": 4, "sparse/1": 6},
        {"sparse/7": 6},
        {"sparse": 6, "sparse/2": 4},
        {"sparse/10": 6, "sparse/9": 5},
    ],
)
def test_the_largest_model_is_read_and_named(tmp_path, caplog, places):
    for place, count in places.items():
        write_binary(tmp_path / "raw/a", place, count)
    (tmp_path / "raw/a/sparse/.trash").mkdir()
    (tmp_path / "raw/a/sparse/._cameras.bin").touch()
    with caplog.at_level(logging.WARNING):
        samples = read(Colmap, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "6")
    assert [sample.images.shape[0] for sample in samples] == [6]
    largest = max(places, key=places.get)
    assert (f"{largest} is read, the largest of several models" in caplog.text) == (len(places) > 1)


def change_pictures(folder, change):
    for path in (folder / "images").glob("*.png"):
        with Image.open(path) as image:
            changed = change(image)
        changed.save(path, exif=changed.getexif())


def test_pictures_of_another_size_fit_and_of_another_shape_do_not(tmp_path, record_property):
    """A camera of 160x120 and pictures cut to 120x120 were off by 20.9 pixels without a word."""
    for name in ("shrunk", "odd", "cut", "turned"):
        write_binary(tmp_path / "raw" / name)
    change_pictures(tmp_path / "raw/shrunk", lambda image: image.resize((128, 96), Image.Resampling.BICUBIC))
    change_pictures(tmp_path / "raw/odd", lambda image: image.resize((131, 98), Image.Resampling.BICUBIC))
    change_pictures(tmp_path / "raw/cut", lambda image: image.crop((20, 0, 140, 120)))
    change_pictures(tmp_path / "raw/turned", lambda image: image.transpose(Image.Transpose.ROTATE_90))
    samples = read(Colmap, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.group for sample in samples] == ["odd", "shrunk"]
    prove(samples, tmp_path / "out", record_property, limit=0.3)  # half a pixel of rounding in `odd`
    skipped = json.loads((tmp_path / "out/reports/colmap-train-part-0-of-1.json").read_text())["skipped"]
    assert (
        "001.png: is 120x120, 1 times as wide as high, but its camera's pictures are 1.333" in skipped["cut"]
    )
    assert "as if one of them were turned" in skipped["turned"]


@pytest.mark.parametrize("size", [(4946, 3286), (1557, 1038), (5187, 3361), (3024, 4032), (1957, 1091)])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_copies_of_any_size_fit_whether_camera_or_picture_is_the_smaller_one(size, factor):
    """A model that was made of `images_8` was refused with the pictures that these are copies of."""
    for width in (size[0] // factor, -(-size[0] // factor)):
        for height in (size[1] // factor, -(-size[1] // factor)):
            assert Shape.of(width, height).fits(*size) and Shape.of(*size).fits(width, height)
            assert not Shape.of(width, height).fits(size[0], round(0.97 * size[1]))


def test_pictures_without_a_pose_are_left_out():
    """COLMAP's text and binary files hold registered pictures only; its database, read by others, holds all."""
    posed, unposed = SimpleNamespace(has_pose=True), SimpleNamespace(has_pose=False)
    assert _with_poses(SimpleNamespace(images={1: posed, 2: unposed})) == [posed]


def with_orientation(number):
    def change(image):
        image.getexif()[0x0112] = number
        return image

    return change


def test_exif_orientations(tmp_path, record_property):
    """A quarter turn is settled by the camera's shape, whether the pixels were turned back or not."""
    for name in ("as-stored", "as-shown", "upside-down"):
        write_binary(tmp_path / "raw" / name)
    change_pictures(tmp_path / "raw/as-stored", with_orientation(6))
    turn = Image.Transpose.ROTATE_90  # orientation 6 turns it back by 90 degrees clockwise
    change_pictures(tmp_path / "raw/as-shown", lambda image: with_orientation(6)(image.transpose(turn)))
    change_pictures(tmp_path / "raw/upside-down", with_orientation(3))
    samples = read(Colmap, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.group for sample in samples] == ["as-shown", "as-stored"]
    prove(samples, tmp_path / "out", record_property, limit=0.15)
    skipped = json.loads((tmp_path / "out/reports/colmap-train-part-0-of-1.json").read_text())["skipped"]
    assert "png: EXIF orientation 3 turns the picture" in skipped["upside-down"]


def test_pictures_are_read_in_natural_order(tmp_path):
    folder = tmp_path / "raw/a"
    rows = write_pictures(folder)[::-1]
    model = folder / "sparse/3"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(
        f"1 PINHOLE {SIZE[1]} {SIZE[0]} {' '.join(map(str, FOCAL + CENTRE))}\n"
    )
    (model / "points3D.txt").write_text("")
    lines = []
    for k, (number, pose, name) in enumerate(rows):
        shutil.move(folder / "images" / name, folder / f"images/frame_{k + 7}.png")
        lines.append(f"{number} {' '.join(map(str, pose))} 1 frame_{k + 7}.png\n\n")
    (model / "images.txt").write_text("".join(lines))
    (sample,) = read(Colmap, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "6")
    np.testing.assert_allclose(sample.c2w, np.stack(arc(6)), atol=1e-5)
