"""A scene as a posed capture, read by independent code: pycolmap, and nerfstudio's conventions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.captures import MOST_POINTS, cloud, write_capture
from scene4d.geometry.cameras import project
from scene4d.geometry.trajectories import arc
from scene4d.types import Cameras, Gaussians

V, T, SIZE = 3, 2, (12, 20)


def scene():
    g = torch.Generator().manual_seed(0)
    K = torch.tensor([[21.0, 0, 10.5], [0, 22.0, 5.5], [0, 0, 1]])
    frames = [
        Gaussians(
            means=torch.randn(30, 3, generator=g), quats=torch.tensor([1.0, 0, 0, 0]).expand(30, 4),
            scales=torch.full((30, 3), 0.1), opacities=torch.linspace(0.2, 0.9, 30),
            colors=torch.rand(30, 3, generator=g),
        )
        for _ in range(T)
    ]  # fmt: skip
    return (
        torch.rand(V, T, 3, *SIZE, generator=g),
        Cameras(arc(V, 10, 50, 20, 10, 3.0), K.expand(V, 3, 3)),
        frames,
    )


def test_colmap_reads_cameras_pictures_and_points(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    images, cameras, frames = scene()
    write_capture(tmp_path / "capture", images, cameras, frames, [0.0, 0.5])
    for t in range(T):
        folder = tmp_path / "capture" / f"frame_{t + 1:04d}"
        model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
        assert len(model.images) == V and len(model.points3D) == int((frames[t].opacities >= 0.5).sum())
        for v in range(V):
            image = next(x for x in model.images.values() if x.name == f"view_{v + 1:02d}.png")
            camera = model.cameras[image.camera_id]
            assert camera.model.name == "PINHOLE" and (camera.height, camera.width) == SIZE
            point = np.array([0.1, -0.2, 0.3])
            local = (
                image.cam_from_world() * point
                if callable(image.cam_from_world)
                else image.cam_from_world * point
            )
            seen = project(torch.tensor(point)[None].float(), cameras[v])[0][0].numpy()
            assert np.allclose(camera.img_from_cam(local), seen, atol=1e-3)
            pixels = np.asarray(Image.open(folder / "images" / image.name)) / 255
            assert np.abs(pixels - images[v, t].movedim(0, -1).numpy()).max() < 0.003
        points = np.array([p.xyz for p in model.points3D.values()])
        assert np.allclose(
            np.sort(points, 0), np.sort(frames[t].means[frames[t].opacities >= 0.5].numpy(), 0), atol=1e-5
        )


def test_nerfstudio_finds_pictures_times_and_opengl_cameras(tmp_path):
    images, cameras, frames = scene()
    write_capture(tmp_path / "capture", images, cameras, frames, [2.0, 2.5])
    content = json.loads((tmp_path / "capture" / "transforms.json").read_text())
    assert len(content["frames"]) == V * T and [x["time"] for x in content["frames"][::V]] == [0, 1]
    assert (tmp_path / "capture" / content["ply_file_path"]).read_bytes().startswith(b"ply\nformat binary")
    for k, frame in enumerate(content["frames"]):
        v, t = k % V, k // V
        pixels = np.asarray(Image.open(tmp_path / "capture" / frame["file_path"])) / 255
        assert np.abs(pixels - images[v, t].movedim(0, -1).numpy()).max() < 0.003
        # nerfstudio: x right, y up, the camera looks along -z
        local = np.linalg.inv(frame["transform_matrix"]) @ [0.1, -0.2, 0.3, 1]
        u = frame["fl_x"] * local[0] / -local[2] + frame["cx"]
        down = frame["fl_y"] * -local[1] / -local[2] + frame["cy"]
        seen = project(torch.tensor([[0.1, -0.2, 0.3]]), cameras[v])[0][0].tolist()
        assert local[2] < 0 and np.allclose([u, down], seen, atol=1e-3)
        assert (frame["h"], frame["w"]) == SIZE


def test_a_capture_is_replaced_whole_and_times_may_be_unknown(tmp_path):
    images, cameras, frames = scene()
    write_capture(tmp_path / "capture", images, cameras, frames)
    write_capture(tmp_path / "capture", images[:, :1], cameras, frames)
    assert sorted(x.name for x in (tmp_path / "capture").iterdir()) == [
        "frame_0001",
        "points.ply",
        "transforms.json",
    ]
    assert json.loads((tmp_path / "capture" / "transforms.json").read_text())["frames"][0]["time"] == 0


def test_points_are_opaque_where_there_are_some_and_not_too_many():
    frame = scene()[2][0]
    assert len(cloud(frame)) == 17
    frame.opacities = frame.opacities / 3
    assert len(cloud(frame)) == 30
    many = frame.apply(lambda x: x[:1].expand(2 * MOST_POINTS + 1, *x.shape[1:]))
    assert MOST_POINTS // 2 < len(cloud(many)) <= MOST_POINTS
