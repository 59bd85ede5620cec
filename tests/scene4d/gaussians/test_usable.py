"""Gaussians that nothing can draw: left out with a count, or refused where nothing is left."""

import struct

import pytest
import torch

from scene4d.gaussians import read_ply, write_ply
from scene4d.types import Gaussians
from scene4d.viewer import write_viewer


def make_gaussians(count: int = 6) -> Gaussians:
    return Gaussians(
        means=torch.randn(count, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        scales=torch.full((count, 3), 0.1),
        opacities=torch.full((count,), 0.5),
        colors=torch.rand(count, 3),
    )


FAULTS = {
    "nan_mean": lambda x: x.means.__setitem__((1, 2), torch.nan),
    "infinite_mean": lambda x: x.means.__setitem__((1, 0), torch.inf),
    "nan_colour": lambda x: x.colors.__setitem__((1, 0), torch.nan),
    "nan_opacity": lambda x: x.opacities.__setitem__(1, torch.nan),
    "infinite_scale": lambda x: x.scales.__setitem__((1, 1), torch.inf),
    "huge_scale": lambda x: x.scales.__setitem__((1, 1), 1e30),
    "negative_scale": lambda x: x.scales.__setitem__((1, 1), -1.0),
    "zero_quaternion": lambda x: x.quats.__setitem__(1, 0.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_writers_leave_out_and_count(tmp_path, caplog, fault):
    gaussians = make_gaussians()
    FAULTS[fault](gaussians)
    write_ply(tmp_path / "a.ply", gaussians)
    assert "a.ply: 1 of 6 Gaussians cannot be drawn" in caplog.text and "left out" in caplog.text
    kept = [0, 2, 3, 4, 5]
    torch.testing.assert_close(read_ply(tmp_path / "a.ply").means, gaussians.means[kept])
    caplog.clear()
    write_viewer(tmp_path / "a.html", [make_gaussians(), gaussians], None, (8, 8))
    assert "a.html, timestep 1: 1 of 6 Gaussians" in caplog.text
    assert '"counts": [6, 5]' in (tmp_path / "a.html").read_text()


def test_nothing_but_faults_is_one_line_and_leaves_the_old_file(tmp_path):
    write_ply(tmp_path / "a.ply", make_gaussians())
    before = (tmp_path / "a.ply").read_bytes()
    gaussians = make_gaussians()
    gaussians.means[:] = torch.nan
    for write in (
        lambda: write_ply(tmp_path / "a.ply", gaussians),
        lambda: write_viewer(tmp_path / "a.html", [gaussians], None, (8, 8)),
    ):
        with pytest.raises(ValueError, match=r"6 of 6 Gaussians cannot be drawn \(NaN or infinite: 6\)"):
            write()
    assert (tmp_path / "a.ply").read_bytes() == before and not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (0, float("nan")),
        (2, float("inf")),
        (6, float("nan")),
        (7, 200.0),
        (8, 89.0),
        (8, float("inf")),
        (10, 0.0),
    ],
)
def test_reader_leaves_out_and_counts(tmp_path, caplog, column, value):
    """Columns of the file: x y z, three colours, opacity, three scales, four of the rotation (1 0 0 0)."""
    path = tmp_path / "foreign.ply"
    write_ply(path, make_gaussians())
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, data.index(b"end_header\n") + 11 + 4 * (2 * 14 + column), value)
    path.write_bytes(data)
    found = read_ply(path)
    assert len(found.means) == 5 and "foreign.ply: 1 of 6 Gaussians cannot be drawn" in caplog.text
    for x in (found.means, found.scales, found.quats, found.opacities, found.colors):
        assert torch.isfinite(x).all()


def test_flat_and_fully_opaque_gaussians_of_other_tools_stay(tmp_path, caplog):
    path = tmp_path / "foreign.ply"
    write_ply(path, make_gaussians())
    data = bytearray(path.read_bytes())
    start = data.index(b"end_header\n") + 11
    struct.pack_into("<f", data, start + 4 * 6, float("inf"))  # the logit of 1
    struct.pack_into("<f", data, start + 4 * 9, float("-inf"))  # the logarithm of 0
    path.write_bytes(data)
    found = read_ply(path)
    assert len(found.means) == 6 and found.opacities[0] == 1 and found.scales[0, 2] == 0 and not caplog.text
