"""PLY files of Gaussians: bytes as other viewers expect them, and clear errors."""

import struct

import pytest
import torch

from scene4d.gaussians.ply import read_ply, write_ply
from scene4d.types import Gaussians


@pytest.fixture
def gaussians():
    g = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(7, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(7, 4, generator=g), dim=-1),
        scales=torch.rand(7, 3, generator=g) + 1e-3,
        opacities=torch.linspace(0, 1, 7),
        colors=torch.rand(7, 3, generator=g),
    )


def test_round_trip(tmp_path, gaussians):
    write_ply(tmp_path / "a.ply", gaussians)
    back = read_ply(tmp_path / "a.ply")
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.allclose(getattr(back, name), getattr(gaussians, name), atol=2e-6, rtol=1e-5), name
    assert [x.name for x in tmp_path.iterdir()] == ["a.ply"]  # no temporary file is left


def test_bytes_are_those_of_the_3dgs_convention(tmp_path):
    one = Gaussians(
        means=torch.tensor([[1.0, 2, 3]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.tensor([[1.0, 2.718281828, 0.5]]),
        opacities=torch.tensor([0.5]),
        colors=torch.tensor([[0.5, 1.0, 0.0]]),
    )
    write_ply(tmp_path / "one.ply", one)
    header, body = (tmp_path / "one.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property float")]
    values = dict(zip(names, struct.unpack("<14f", body)))
    assert (values["x"], values["y"], values["z"]) == (1, 2, 3)
    assert [round(values[f"scale_{i}"], 4) for i in range(3)] == [0, 1, -0.6931]
    assert values["opacity"] == 0 and values["rot_0"] == 1 and values["rot_3"] == 0
    assert [round(values[f"f_dc_{i}"], 5) for i in range(3)] == [0, 1.77245, -1.77245]


def test_reads_files_of_other_tools(tmp_path, gaussians):
    """Other order, normals, higher harmonics, doubles, comments, further elements, quats not normalised."""
    names = ["nx", "f_rest_0", "rot_3", "rot_2", "rot_1", "rot_0", "opacity", "z", "y", "x"]
    names += [f"f_dc_{i}" for i in range(3)] + [f"scale_{i}" for i in range(3)]
    header = "ply\nformat binary_little_endian 1.0\ncomment made elsewhere\nelement vertex 1\n"
    header += "property double nx\n" + "".join(f"property float {name}\n" for name in names[1:])
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    values = [9.0, 7.0, 0.0, 0.0, 0.0, 2.0, 0.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    (tmp_path / "b.ply").write_bytes(header.encode() + struct.pack("<d15f", *values) + b"\x00" * 13)
    back = read_ply(tmp_path / "b.ply")
    assert back.means.tolist() == [[1, 2, 3]] and back.quats.tolist() == [[1, 0, 0, 0]]
    assert back.opacities.tolist() == [0.5] and back.colors.tolist() == [[0.5, 0.5, 0.5]]
    assert back.scales.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: b"solid" + x, "not a PLY file"),
        (lambda x: b"", "not a PLY file"),
        (lambda x: x[:-1], "7 Gaussians need 392 bytes, found 391"),
        (
            lambda x: x.replace(b"binary_little_endian", b"ascii"),
            "format ascii 1.0, only binary_little_endian",
        ),
        (lambda x: x.replace(b"rot_3", b"other"), "properties missing: rot_3"),
        (lambda x: x.replace(b"vertex 7", b"vertex many"), "malformed header line 'element vertex many'"),
        (lambda x: x.replace(b"element vertex", b"element face"), "first element is not 'vertex'"),
        (lambda x: x.replace(b"float x", b"half x"), "unsupported vertex property 'property half x'"),
        (lambda x: x.split(b"end_header")[0], "no end_header"),
    ],
)
def test_malformed_files_are_named(tmp_path, gaussians, change, message):
    path = tmp_path / "bad.ply"
    write_ply(path, gaussians)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_ply(path)
    assert str(path) in str(caught.value)


def test_refuses_batches_and_leaves_the_old_file(tmp_path, gaussians):
    path = tmp_path / "a.ply"
    write_ply(path, gaussians)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\(1, 7, 3\)"):
        write_ply(path, gaussians.apply(lambda x: x[None]))
    assert path.read_bytes() == before
