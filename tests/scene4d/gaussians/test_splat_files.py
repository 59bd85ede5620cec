"""Files of Gaussians for other viewers, read by independent code and drawn by an independent renderer."""

import numpy as np
import pytest
import torch

from scene4d.gaussians.ply import write_ply
from scene4d.gaussians.splat_files import write_compressed_ply, write_splat
from scene4d.rendering import render_gaussians
from scene4d.types import Cameras, Gaussians

SIZE, FOCAL = 40, 45.0


def cloud(count: int = 300) -> Gaussians:
    g = torch.Generator().manual_seed(3)
    return Gaussians(
        means=torch.randn(count, 3, generator=g) * 0.5 + torch.tensor([0.0, 0, 3]),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=0.03 + 0.12 * torch.rand(count, 3, generator=g), opacities=0.05 + 0.9 * torch.rand(count, generator=g),
        colors=torch.rand(count, 3, generator=g), blurred=True,
    )  # fmt: skip


def parse_ply(data: bytes) -> dict[str, np.ndarray]:
    """Elements of a binary PLY, written after its specification alone."""
    header, body = data.split(b"end_header\n", 1)
    kinds = {"float": "<f4", "uint": "<u4", "uchar": "u1"}
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in header.decode().splitlines():
        match line.split():
            case ["element", name, count]:
                elements.append((name, int(count), []))
            case ["property", kind, name]:
                elements[-1][2].append((name, kinds[kind]))
    found, at = {}, 0
    for name, count, fields in elements:
        assert fields, f"PlayCanvas' splat-transform refuses an element without properties: {name}"
        found[name] = np.frombuffer(body, np.dtype(fields), count, at)
        at += found[name].nbytes
    assert at == len(body)
    return found


def from_ply(data: bytes) -> list[np.ndarray]:
    """Means, quaternions (wxyz), scales, opacities, colours as viewers of 3DGS read them."""
    rows = parse_ply(data)["vertex"]
    several = lambda *names: np.stack([rows[n] for n in names], -1).astype(np.float64)  # noqa: E731
    return [
        several("x", "y", "z"), several("rot_0", "rot_1", "rot_2", "rot_3"),
        np.exp(several("scale_0", "scale_1", "scale_2")), 1 / (1 + np.exp(-several("opacity")[:, 0])),
        0.5 + 0.28209479177387814 * several("f_dc_0", "f_dc_1", "f_dc_2"),
    ]  # fmt: skip


def from_splat(data: bytes) -> list[np.ndarray]:
    """The same of a .splat file, as antimatter15's viewer reads it."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, 32)
    floats = rows[:, :24].copy().view("<f4").astype(np.float64)
    quats = (rows[:, 28:].astype(np.float64) - 128) / 128
    return [floats[:, :3], quats, floats[:, 3:], rows[:, 27] / 255, rows[:, 24:27] / 255]


def from_compressed(data: bytes) -> list[np.ndarray]:
    """The same of a compressed PLY, after the description of the PlayCanvas engine."""
    found = parse_ply(data)
    chunks, rows = found["chunk"], found["vertex"]
    of = chunks[np.arange(len(rows)) // 256]
    bits = lambda x, at, n: ((x >> at) & (2**n - 1)) / (2**n - 1)  # noqa: E731
    lerp = lambda a, b, x: a + (b - a) * x  # noqa: E731

    def in_chunk(packed, *names):
        x = [bits(packed, 21, 11), bits(packed, 11, 10), bits(packed, 0, 11)]
        return np.stack(
            [lerp(of[f"min_{n}"].astype(np.float64), of[f"max_{n}"], y) for n, y in zip(names, x)], -1
        )

    color = rows["packed_color"]
    rgb = [
        lerp(of[f"min_{n}"], of[f"max_{n}"], bits(color, at, 8)) for n, at in (("r", 24), ("g", 16), ("b", 8))
    ]
    rotation, quats = rows["packed_rotation"], np.zeros((len(rows), 4))
    rest = np.stack([(bits(rotation, at, 10) - 0.5) * np.sqrt(2) for at in (20, 10, 0)], -1)
    for largest in range(4):
        mine = (rotation >> 30) == largest
        others = [k for k in range(4) if k != largest]
        quats[np.ix_(mine, others)] = rest[mine]
        quats[mine, largest] = np.sqrt(np.clip(1 - np.square(rest[mine]).sum(-1), 0, None))
    scales = np.exp(in_chunk(rows["packed_scale"], "scale_x", "scale_y", "scale_z"))
    means = in_chunk(rows["packed_position"], "x", "y", "z")
    return [means, quats, scales, bits(color, 0, 8), np.stack(rgb, -1)]


def draw(means, quats, scales, opacities, colors) -> np.ndarray:
    """A splat viewer in float64, pixel by pixel from the formulas, with a camera at the origin and white behind."""
    order = np.argsort(means[:, 2])
    u, v = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    image, light = np.zeros((SIZE, SIZE, 3)), np.ones((SIZE, SIZE))
    for k in order:
        x, y, z = means[k]
        if z <= 0.01:
            continue
        w, a, b, c = quats[k] / np.linalg.norm(quats[k])
        R = np.array([
            [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
            [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
            [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
        ])  # fmt: skip
        limit = 1.3 * SIZE / 2 / FOCAL
        tx, ty = np.clip(x / z, -limit, limit), np.clip(y / z, -limit, limit)
        J = FOCAL / z * np.array([[1, 0, -tx], [0, 1, -ty]])
        inverse = np.linalg.inv(J @ R @ np.diag(scales[k] ** 2) @ R.T @ J.T + 1e-4 * np.eye(2))
        dx, dy = u - (FOCAL * x / z + SIZE / 2), v - (FOCAL * y / z + SIZE / 2)
        power = 0.5 * (inverse[0, 0] * dx**2 + inverse[1, 1] * dy**2) + inverse[0, 1] * dx * dy
        alpha = np.minimum(0.999, opacities[k] * np.exp(-power))
        weight = np.where(alpha < 1 / 255, 0, alpha) * light
        image += weight[..., None] * colors[k]
        light -= weight
    return image + light[..., None]


def ours(gaussians: Gaussians) -> np.ndarray:
    """The picture of our own videos."""
    K = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return (
        render_gaussians(gaussians, Cameras(torch.eye(4)[None], K[None]), SIZE, SIZE)
        .images[0]
        .movedim(0, -1)
        .numpy()
    )


@pytest.mark.parametrize(
    ("write", "read", "bytes_each", "error"),
    [
        (write_ply, from_ply, 56, 2e-4), (write_splat, from_splat, 32, 0.03),
        (write_compressed_ply, from_compressed, 18, 0.06),
    ],
)  # fmt: skip
def test_files_read_and_drawn_by_others_look_as_our_pictures(tmp_path, write, read, bytes_each, error):
    gaussians = cloud()
    write(tmp_path / "a", gaussians)
    data = (tmp_path / "a").read_bytes()
    assert len(data) < bytes_each * 300 + 1200 and [x.name for x in tmp_path.iterdir()] == ["a"]
    picture, truth = draw(*read(data)), ours(gaussians)
    assert np.abs(picture - truth).max() < error and np.ptp(truth) > 0.5
    turned = cloud()
    turned.quats = turned.quats.roll(1, -1)
    assert np.abs(ours(turned) - truth).max() > 0.1  # an order xyzw would show


@pytest.mark.parametrize("write", [write_splat, write_compressed_ply])
def test_what_these_files_cannot_say_is_refused_and_the_broken_are_left_out(tmp_path, write, caplog):
    gaussians = cloud(5)
    gaussians.means[1, 0] = torch.nan
    write(tmp_path / "a", gaussians)
    assert "1 of 5 Gaussians cannot be drawn (NaN or infinite: 1)" in caplog.text
    gaussians.blurred = False
    with pytest.raises(ValueError, match="a needs Gaussians that include the blur"):
        write(tmp_path / "a", gaussians)
    with pytest.raises(ValueError, match=r"one set of Gaussians, got means of shape \(1, 5, 3\)"):
        write(tmp_path / "a", gaussians.apply(lambda x: x[None]))


def test_equal_gaussians_survive_compression(tmp_path):
    """A chunk in which nothing differs: its bounds are equal, and 0 / 0 must not reach the file."""
    gaussians = cloud(1).apply(lambda x: x.expand(300, *x.shape[1:]).clone())
    write_compressed_ply(tmp_path / "a.ply", gaussians)
    means, quats, scales, opacities, colors = from_compressed((tmp_path / "a.ply").read_bytes())
    assert (
        np.abs(means - gaussians.means.numpy()).max() < 1e-5
        and np.abs(colors - gaussians.colors.numpy()).max() < 1e-5
    )
    assert np.abs(scales - gaussians.scales.numpy()).max() < 1e-5
    assert np.abs(np.abs((quats * gaussians.quats.numpy()).sum(-1)) - 1).max() < 1e-4
    assert np.abs(opacities - gaussians.opacities.numpy()).max() < 0.003


def test_the_largest_and_most_opaque_come_first_in_a_splat(tmp_path):
    write_splat(tmp_path / "a.splat", cloud())
    _, _, scales, opacities, _ = from_splat((tmp_path / "a.splat").read_bytes())
    importance = scales.prod(-1) * opacities
    assert (np.diff(importance) < 0.1 * importance[:-1]).all() and importance[0] > 20 * importance[-1]


@pytest.mark.parametrize("opacity", [None, 0.001])
def test_a_timestep_without_gaussians_has_files_that_open(tmp_path, opacity):
    nothing = cloud(5) if opacity else cloud(5)[:0]
    nothing.opacities[:] = opacity or 0
    write_ply(tmp_path / "a.ply", nothing)
    write_splat(tmp_path / "a.splat", nothing)
    write_compressed_ply(tmp_path / "a.compressed.ply", nothing)
    rows = parse_ply((tmp_path / "a.compressed.ply").read_bytes())
    assert len(rows["vertex"]) == 1 and rows["chunk"]["max_scale_x"] <= -20
