"""What is written into viewer.html, without a browser."""

import base64
import json
import re
from dataclasses import replace

import pytest
import torch

from scene4d.gaussians.quantization import unpack_gaussians
from scene4d.types import Cameras, Gaussians
from scene4d.viewer import write_viewer


def make_frames(count=3, gaussians=50):
    g = torch.Generator().manual_seed(0)
    return [
        Gaussians(
            means=torch.randn(gaussians, 3, generator=g),
            quats=torch.nn.functional.normalize(torch.randn(gaussians, 4, generator=g), dim=-1),
            scales=0.1 * torch.rand(gaussians, 3, generator=g),
            opacities=0.1 + 0.9 * torch.rand(gaussians, generator=g),
            colors=torch.rand(gaussians, 3, generator=g),
        )
        for _ in range(count)
    ]


def make_cameras():
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, 0, 3] = 0.5
    return Cameras(c2w, torch.tensor([[60.0, 0, 32], [0, 60, 32], [0, 0, 1]]).repeat(2, 1, 1))


def read_block(page, name):
    found = re.findall(rf'<script type="[^"]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1, name
    return found[0]


def test_page_holds_every_timestep_and_camera(tmp_path):
    frames, cameras = make_frames(), make_cameras()
    frames[1].opacities[:10] = 0.001  # never drawn, left out
    write_viewer(tmp_path / "viewer.html", frames, cameras, (64, 64), fps=8, title="Torus")
    page = (tmp_path / "viewer.html").read_text()
    meta = json.loads(read_block(page, "meta"))
    assert meta["fps"] == 8 and meta["counts"] == [50, 40, 50] and meta["imageSize"] == [64, 64]
    assert torch.equal(torch.tensor([c["c2w"] for c in meta["cameras"]]), cameras.c2w)
    assert torch.equal(torch.tensor([c["intrinsics"] for c in meta["cameras"]]), cameras.intrinsics)
    low, high = torch.tensor(meta["low"]).double(), torch.tensor(meta["high"]).double()
    for index, kept in ((0, slice(None)), (1, slice(10, None)), (2, slice(None))):
        back = unpack_gaussians(base64.b64decode(read_block(page, f"frame-{index}")), low, high)
        assert torch.allclose(back.means, frames[index].means[kept], atol=2e-4)
        assert torch.allclose(back.scales, frames[index].scales[kept], rtol=1e-3)
        assert torch.allclose(back.colors, frames[index].colors[kept], atol=0.003)
    assert [x.name for x in tmp_path.iterdir()] == ["viewer.html"]


def test_a_page_holds_a_sample_of_too_many_and_says_so(tmp_path, monkeypatch):
    write_viewer(tmp_path / "viewer.html", make_frames(), None, (64, 64), most=20)
    meta = json.loads(read_block((tmp_path / "viewer.html").read_text(), "meta"))
    assert meta["totals"] == [50, 50, 50] and all(19 <= count <= 20 for count in meta["counts"])
    monkeypatch.setattr("scene4d.viewer.MOST_IN_PAGE", 90)
    write_viewer(tmp_path / "viewer.html", make_frames(), make_cameras(), (64, 64))
    meta = json.loads(read_block((tmp_path / "viewer.html").read_text(), "meta"))
    assert 87 <= sum(meta["counts"]) <= 90 and meta["totals"] == [50, 50, 50]


@pytest.mark.parametrize(("blurred", "expected"), [(False, 0.3), (True, 1e-4)])
def test_page_draws_with_the_blur_that_its_gaussians_lack(tmp_path, blurred, expected):
    frames = [replace(frame, blurred=blurred) for frame in make_frames()]
    write_viewer(tmp_path / "viewer.html", frames, None, (64, 64))
    page = (tmp_path / "viewer.html").read_text()
    assert json.loads(read_block(page, "meta"))["lowPass"] == expected
    assert "checkbox" not in page and "as rendered" not in page  # no switch is needed


def test_page_needs_no_network_and_survives_odd_titles(tmp_path):
    title = "</script><b>{{script}} & \\1"
    write_viewer(tmp_path / "viewer.html", make_frames(1), None, (48, 64), title=title)
    page = (tmp_path / "viewer.html").read_text()
    assert not re.search(r"(src|href)=|https?://|@import|fetch\(|\bimport\b", page)
    assert "<title>&lt;/script&gt;&lt;b&gt;{{script}} &amp; \\1</title>" in page
    assert json.loads(read_block(page, "meta"))["title"] == title
    assert page.count('"use strict"') == 1 and "{{style}}" not in page


def test_without_cameras_one_sees_the_whole_scene(tmp_path):
    frames = make_frames(2)
    write_viewer(tmp_path / "viewer.html", frames, None, (48, 64))
    (camera,) = json.loads(read_block((tmp_path / "viewer.html").read_text(), "meta"))["cameras"]
    points = torch.cat([f.means for f in frames]) - torch.tensor(camera["c2w"])[:3, 3]
    pixels = (points @ torch.tensor(camera["intrinsics"]).T)[:, :2] / points[:, 2:]
    assert (points[:, 2] > 0).all()
    assert ((pixels > 0) & (pixels < torch.tensor([64.0, 48.0]))).all()


def test_wrong_input_is_named(tmp_path):
    path, frames, cameras = tmp_path / "viewer.html", make_frames(), make_cameras()
    with pytest.raises(ValueError, match="at least one frame"):
        write_viewer(path, [], cameras, (64, 64))
    with pytest.raises(ValueError, match=r"frame 0 has means of shape \(1, 50, 3\)"):
        write_viewer(path, [frames[0].apply(lambda x: x[None])], cameras, (64, 64))
    with pytest.raises(ValueError, match=r"cameras have shape \(1, 2\)"):
        write_viewer(path, frames, cameras.apply(lambda x: x[None]), (64, 64))
    with pytest.raises(ValueError, match=r"\(0, 64\)"):
        write_viewer(path, frames, cameras, (0, 64))
    frames[2].blurred = True
    with pytest.raises(ValueError, match="frame 2 is blurred, frame 0 is otherwise"):
        write_viewer(path, frames, cameras, (64, 64))
    cameras.c2w[1, 0, 3] = float("nan")
    with pytest.raises(ValueError, match="a camera holds NaN"):
        write_viewer(path, frames[:1], cameras, (64, 64))
    assert not list(tmp_path.iterdir())
