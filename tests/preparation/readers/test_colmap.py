"""COLMAP models, binary and text, written as https://colmap.github.io/format.html documents them."""

import json
import struct

import numpy as np
import pytest
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image
from scipy.spatial.transform import Rotation

from preparation.readers.colmap import Colmap

pytest.importorskip("pycolmap")
WINDOW = ("--size", "96", "--views", "4", "--windows", "1")
RADIAL = -0.15


def write_pictures(folder, lens=None):
    (folder / "images").mkdir(parents=True)
    rows = []
    for k, pose in enumerate(arc(6)):
        focal = FOCAL if lens is None else (FOCAL[0], FOCAL[0])
        Image.fromarray(draw(pose, focal=focal, lens=lens)).save(folder / "images" / f"{k:03d}.png")
        w2c = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        rows.append((k + 1, (w, x, y, z, *w2c[:3, 3]), f"{k:03d}.png"))
    return rows[::-1]  # the order of a model is not that of its names


def write_binary(folder):
    """A PINHOLE camera (model 1), as COLMAP's binary format."""
    rows, model = write_pictures(folder), folder / "sparse/0"
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
