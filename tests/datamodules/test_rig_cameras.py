"""Cameras of a rig come out of a transforms.json as its pictures come into the grid."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.rig_cameras import read_rig
from datamodules.synchronized_views import SynchronizedViews, read_views
from scene4d.captures import write_capture
from scene4d.pipelines.known_cameras import known_part
from scene4d.types import Cameras, Gaussians

H, W = 24, 40


def cameras(views=3):
    c2w = torch.eye(4).repeat(views, 1, 1)
    c2w[:, :3, :3] = torch.linalg.matrix_exp(0.3 * (skew := torch.randn(views, 3, 3)) - 0.3 * skew.mT)
    c2w[:, :3, 3] = torch.randn(views, 3)
    intrinsics = torch.tensor([[30.0, 0, 21], [0, 31, 11], [0, 0, 1]]).repeat(views, 1, 1)
    return Cameras(c2w, intrinsics)


def meta(views=("cam1", "cam2"), **more):
    frame = {"transform_matrix": np.eye(4).tolist(), "fl_x": 30.0, "w": W, "h": H}
    return {"frames": [frame | {"file_path": f"images/{name}.png"} for name in views], **more}


def read(tmp_path, values, size=(H, W), names=("cam1", "cam2"), shape=(H, W)):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(values))
    return read_rig(path, names, [shape] * len(names), size)


def test_what_we_export_is_read_again(tmp_path):
    known, pictures = cameras(), torch.rand(3, 2, 3, H, W)
    empty = Gaussians(*(torch.zeros(0, *rest) for rest in ((3,), (4,), (3,), (), (3,))))
    write_capture(tmp_path / "capture", pictures, known, [empty, empty], [0.0, 1.0])
    folder = tmp_path / "capture/frame_0001/images"
    data = SynchronizedViews(str(folder), size=(H, W), cameras=str(tmp_path / "capture/transforms.json"))
    data.setup("predict")
    found, _ = known_part(data.batch, "cameras")
    assert torch.allclose(found.c2w[0], known.c2w, atol=1e-5)
    assert torch.allclose(found.intrinsics[0], known.intrinsics, atol=1e-4)
    assert read_views(str(folder)).cameras is None


@pytest.mark.parametrize("size", [(12, 20), (10, 10), (30, 20)])
def test_intrinsics_follow_the_middle_that_is_cut_out(tmp_path, size):
    """A dot at a ray's pixel is where the camera of the grid sees it; the file speaks of pictures half as large."""
    names = ["cam1", "cam2"]
    values = meta(cx=38.0, cy=22.0, fl_x=15.0, fl_y=15.5)
    for frame in values["frames"]:
        del frame["fl_x"]
        frame |= {"w": W * 2, "h": H * 2}
    pixels = np.zeros((4 * H, 4 * W, 3), np.uint8)
    ray = torch.tensor([0.9, 0.4, 1.0])
    x, y = 2 * (15.0 * ray[0] + 38), 2 * (15.5 * ray[1] + 22)  # of pictures twice as large as the file says
    pixels[int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1] = 255
    for name in names:
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "transforms.json").write_text(json.dumps(values))
    batch = read_views(str(tmp_path), size=size, cameras=str(tmp_path / "transforms.json"))
    seen = batch.cameras.intrinsics[0, 1] @ ray
    weights = batch.images[0, 1, 0, 0]
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    centre = torch.stack([(weights * part).sum() / weights.sum() for part in (columns, rows)])
    assert (centre - seen[:2]).abs().max() < 0.75


def test_frames_belong_to_views_by_name_or_by_folder(tmp_path):
    values = meta(["a", "b"])
    values["frames"][0]["file_path"] = "cam1\\0001.png"  # as written on Windows
    values["frames"][1]["file_path"] = "./cam2.mp4"
    values["frames"][1]["transform_matrix"] = [[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0]]
    values["frames"].append(values["frames"][0] | {"file_path": "cam1/0002.png"})
    found = read(tmp_path, values)
    assert found.c2w[0, :, 0, 3].tolist() == [0, 5] and found.c2w[0, 0].diagonal().tolist() == [1, -1, -1, 1]
    assert found.intrinsics[0, 0].tolist() == [[30, 0, W / 2], [0, 30, H / 2], [0, 0, 1]]


@pytest.mark.parametrize("change, told", [
    (lambda m: m["frames"].pop(), "no frame has a file_path that names view 'cam2'"),
    (lambda m: m.pop("frames"), "expected a key 'frames'"),
    (lambda m: m["frames"][0].pop("fl_x"), "expected a key 'fl_x' or 'camera_angle_x'"),
    (lambda m: m["frames"][0].pop("transform_matrix"), "expected a key 'transform_matrix'"),
    (lambda m: m["frames"][0].update(transform_matrix=[1, 2]), r"transform_matrix has the shape \(2,\)"),
    (lambda m: m["frames"][1].update(k1=0.1), r"view 'cam2': its lens distorts \(OPENCV \[0.1"),
    (lambda m: m["frames"][1].update(camera_model="OPENCV_FISHEYE"), "its lens distorts"),
    (lambda m: m["frames"][1].update(w=H, h=W), "pictures are 40 x 24, those of its camera 24 x 40"),
    (lambda m: m["frames"].append(m["frames"][0] | {"fl_x": 31.0}), "the frames of view 'cam1' have different"),
    (lambda m: m["frames"].append("cam3"), "a value has another type than expected"),
    (lambda m: m["frames"][0].update(fl_x="wide"), "fl_x is 'wide', expected a number"),
])  # fmt: skip
def test_what_cannot_be_is_named(tmp_path, change, told):
    values = meta()
    change(values)
    with pytest.raises(ValueError, match=rf"cameras '.*transforms.json': .*{told}"):
        read(tmp_path, values)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.json"):
        read_rig(tmp_path / "none.json", ["a"], [(H, W)], 8)
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(ValueError, match="x.json"):
        read_rig(tmp_path / "x.json", ["a"], [(H, W)], 8)
