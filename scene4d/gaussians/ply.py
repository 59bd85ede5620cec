"""Gaussians as the PLY files of 3D Gaussian splatting, which every splat viewer opens.

One float32 record per Gaussian: x y z, f_dc_0..2 (colour as the constant spherical harmonic,
(rgb - 0.5) / C0), opacity (logit), scale_0..2 (natural logarithm), rot_0..3 (wxyz): 56 bytes. The comment `BLURRED`
in the header says that the scales include the blur of the rasterizer; other viewers pass it over.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from scene4d.atomic import replacing
from scene4d.gaussians.usable import usable_gaussians
from scene4d.types import Gaussians

SH_C0 = 0.28209479177387814  # constant spherical harmonic, 1 / (2 sqrt(pi))
PROPERTIES = (
    *("x", "y", "z"),
    *(f"f_dc_{i}" for i in range(3)),
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)
_OPACITY_MARGIN = 1e-6  # keeps the logit finite
_SCALE_MIN = 1e-12  # keeps the logarithm finite
_MAX_HEADER_LINES = 1000
BLURRED = "comment scene4d: scales include the blur of the rasterizer"
_NUMPY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}


def write_ply(path: str | Path, gaussians: Gaussians) -> None:
    """Writes one set of Gaussians; the file appears whole or not at all.

    Gaussians that cannot be drawn are left out with a warning that counts them, see `usable_gaussians`.

    Args:
        path: The PLY file; its folder is made.
        gaussians: Without leading axes, means (g, 3). Those of a finished scene, `Reconstruction.gaussians`, look the
            same in every viewer. Others are drawn with a blur that depends on the size of the picture, see
            `Gaussians.blurred`.

    Raises:
        ValueError: Leading axes, or none of the Gaussians can be drawn.
    """
    if gaussians.means.ndim != 2:
        shape = tuple(gaussians.means.shape)
        raise ValueError(f"a PLY holds one set of Gaussians, got means of shape {shape}; index it first")
    records = _to_records(usable_gaussians(gaussians.to(dtype=torch.float32), str(path)))
    header = ["ply", "format binary_little_endian 1.0", *[BLURRED] * gaussians.blurred]
    header += [f"element vertex {len(records)}"]
    header += [f"property float {name}" for name in PROPERTIES] + ["end_header", ""]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join(header).encode("ascii") + records.tobytes())


def read_ply(path: str | Path) -> Gaussians:
    """Reads the Gaussians of a PLY file; higher spherical harmonics and unknown properties are ignored.

    Returns:
        Float32 Gaussians (g, ...) with normalised quaternions; those that cannot be drawn are left out with a warning
        that counts them, see `usable_gaussians`.

    Raises:
        ValueError: Not a PLY, not binary little-endian, properties missing, data cut short, or no Gaussian
            that can be drawn; names the file.
    """
    with Path(path).open("rb") as file:
        count, dtype, blurred = _read_header(file, path)
        data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(
            f"{path}: cut short, {count} Gaussians need {count * dtype.itemsize} bytes, found {len(data)}"
        )
    vertices = np.frombuffer(data, dtype)
    table = np.stack([vertices[name].astype(np.float32) for name in PROPERTIES], axis=1)
    return usable_gaussians(_from_records(torch.from_numpy(table), blurred), str(path))


def _to_records(gaussians: Gaussians) -> np.ndarray:
    """Table (g, 14) of little-endian float32, columns as PROPERTIES."""
    plain = gaussians.to(device="cpu", dtype=torch.float32).apply(torch.Tensor.detach)
    opacities = plain.opacities.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
    columns = [
        plain.means,
        (plain.colors - 0.5) / SH_C0,
        torch.logit(opacities)[:, None],
        plain.scales.clamp(min=_SCALE_MIN).log(),
        plain.quats,
    ]
    return torch.cat(columns, dim=1).numpy().astype("<f4")


def _from_records(table: torch.Tensor, blurred: bool) -> Gaussians:
    means, colors, opacities, scales, quats = table.split([3, 3, 1, 3, 4], dim=1)
    return Gaussians(
        means=means,
        quats=torch.nn.functional.normalize(quats, dim=-1),
        scales=scales.exp(),
        opacities=opacities[:, 0].sigmoid(),
        colors=colors * SH_C0 + 0.5,
        blurred=blurred,
    )


def _read_header(file: BinaryIO, path: str | Path) -> tuple[int, np.dtype, bool]:
    """Number of vertices, their record type, and whether they are blurred; leaves the file at the first vertex."""
    if file.readline(64).strip() != b"ply":
        raise ValueError(f"{path}: not a PLY file (its first line is not 'ply')")
    elements: list[tuple[str, int]] = []
    properties: list[tuple[str, str]] = []
    blurred = False
    for _ in range(_MAX_HEADER_LINES):
        line = file.readline(1024).decode("ascii", errors="replace")
        words = line.split()
        if words[:1] == ["end_header"]:
            break
        if not line:
            raise ValueError(f"{path}: header has no end_header line")
        blurred |= line.strip() == BLURRED
        if words[:1] == ["format"] and words[1:2] != ["binary_little_endian"]:
            raise ValueError(f"{path}: format {' '.join(words[1:])}, only binary_little_endian is read")
        if words[:1] == ["element"]:
            elements.append(_parse_element(words, path))
        if words[:1] == ["property"] and [name for name, _ in elements] == ["vertex"]:
            properties.append(_parse_property(words, path))
    else:
        raise ValueError(f"{path}: header is longer than {_MAX_HEADER_LINES} lines")
    if not elements or elements[0][0] != "vertex":
        raise ValueError(f"{path}: its first element is not 'vertex'")
    missing = [name for name in PROPERTIES if name not in dict(properties)]
    if missing:
        raise ValueError(f"{path}: not a Gaussian splatting PLY, properties missing: {', '.join(missing)}")
    return elements[0][1], np.dtype(properties), blurred


def _parse_element(words: list[str], path: str | Path) -> tuple[str, int]:
    if len(words) != 3 or not words[2].isdigit():
        raise ValueError(f"{path}: malformed header line {' '.join(words)!r}")
    return words[1], int(words[2])


def _parse_property(words: list[str], path: str | Path) -> tuple[str, str]:
    if len(words) != 3 or words[1] not in _NUMPY_TYPES:
        raise ValueError(f"{path}: unsupported vertex property {' '.join(words)!r}")
    return words[2], _NUMPY_TYPES[words[1]]
