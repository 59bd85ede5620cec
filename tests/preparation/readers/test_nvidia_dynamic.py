"""NVIDIA Dynamic Scene's folders, written as the data set has them."""

import json

import numpy as np
import pytest
from miniature import CENTRE, FOCAL, POINTS, arc, draw, prove, read
from PIL import Image

from preparation.readers.nvidia_dynamic import NvidiaDynamic

CLIP = ("--size", "96", "--frames", "5")


def moved(frame: int) -> np.ndarray:
    return POINTS + np.array([-0.03, 0.02, 0.04]) * frame


def write_scene(scene, frames=5):
    matrix = np.array([[FOCAL[0], 0, CENTRE[0]], [0, FOCAL[1], CENTRE[1]], [0, 0, 1]])
    for number, pose in enumerate(arc(4), 1):
        folder = scene / "calibration" / f"cam{number:02d}"
        folder.mkdir(parents=True)
        world_to_camera = np.linalg.inv(pose)[:3, :3]
        np.savetxt(folder / "extrinsic.txt", np.vstack([pose[:3, 3], world_to_camera]))
        np.savetxt(folder / "intrinsic.txt", matrix)
        for frame in range(frames):
            instant = scene / "multiview_GT" / f"{frame:08d}"
            instant.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(draw(pose, points=moved(frame)))
            picture.save(instant / f"cam{number:02d}.jpg", quality=95, subsampling=0)


def test_points_land_where_they_are_seen(tmp_path, record_property):
    root = tmp_path / "raw"
    write_scene(root / "Balloon1")
    write_scene(root / "Jumping")
    (root / "Jumping/calibration/cam02/extrinsic.txt").write_text("1 2 3")
    write_scene(root / "Skating")
    (root / "Skating/multiview_GT/00000003/cam04.jpg").unlink()
    samples = read(NvidiaDynamic, root, tmp_path / "out", *CLIP)
    assert [sample.key for sample in samples] == ["nvidia_dynamic-Balloon1-00000"]
    assert samples[0].images.shape == (4, 5, 96, 96, 3)
    prove(samples, tmp_path / "out", record_property, moved, limit=0.2)
    report = tmp_path / "out/reports/nvidia_dynamic-train-part-0-of-1.json"
    skipped = json.loads(report.read_text())["skipped"]
    assert "cam02/extrinsic.txt: expected 4 rows of 3 numbers" in skipped["Jumping"]
    assert "00000003/cam04.jpg: expected a picture" in skipped["Skating"]


def test_shrunk_and_turned_pictures_are_named_and_names_kept(tmp_path):
    write_scene(tmp_path / "raw/a")
    (tmp_path / "raw/a/calibration/._cam01").mkdir()
    (tmp_path / "raw/a/multiview_GT/.DS_Store").mkdir()
    (sample,) = read(NvidiaDynamic, tmp_path / "raw", tmp_path / "out", *CLIP, "--skip", "cam02")
    assert sample.view_names == ["cam01", "cam03", "cam04"] and sample.images.shape[1] == 5
    path = tmp_path / "raw/a/multiview_GT/00000003/cam03.jpg"
    whole = Image.open(path)
    whole.transpose(Image.Transpose.ROTATE_90).save(path)
    with pytest.raises(SystemExit, match="00000003/cam03.jpg: is 120x160.*as if one of them were turned"):
        read(NvidiaDynamic, tmp_path / "raw", tmp_path / "turned", *CLIP)
    for path in (tmp_path / "raw/a/multiview_GT").rglob("*.jpg"):
        whole.resize((80, 60)).save(path)
    with pytest.raises(SystemExit, match="the principal point is at .1.04, 0.95. of the width and height"):
        read(NvidiaDynamic, tmp_path / "raw", tmp_path / "shrunk", *CLIP)
