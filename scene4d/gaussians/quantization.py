"""Gaussians in 24 bytes each, for the viewer: what a browser decodes without a library.

Planes in this order, little-endian: positions uint16 x 3 (within a box), scales float16 x 3,
quaternions int16 x 4 (wxyz, 32767 = 1), colour and opacity uint8 x 4.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scene4d.types import Gaussians

BYTES_PER_GAUSSIAN = 24


def bounding_box(frames: list[Gaussians]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Lowest and highest corner of all means, float64; a unit box when there are no Gaussians."""
    means = torch.cat([frame.means.detach().double().cpu() for frame in frames])
    if len(means) == 0:
        return torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    return means.amin(0), means.amax(0)


def pack_gaussians(gaussians: Gaussians, low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> bytes:
    """Quantises one set of Gaussians (g, ...) whose means lie within the box `low`..`high`."""
    plain = gaussians.to(device="cpu", dtype=torch.float64).apply(torch.Tensor.detach)
    extent = (high - low).clamp(min=1e-12)
    positions = ((plain.means - low) / extent * 65535).round().clamp(0, 65535)
    quats = (torch.nn.functional.normalize(plain.quats, dim=-1) * 32767).round()
    rgba = torch.cat([plain.colors, plain.opacities[:, None]], dim=1).clamp(0, 1) * 255
    planes = (
        positions.numpy().astype("<u2"),
        plain.scales.clamp(0, 65504).numpy().astype("<f2"),
        quats.numpy().astype("<i2"),
        rgba.round().numpy().astype("u1"),
    )
    return b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)


def unpack_gaussians(data: bytes, low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> Gaussians:
    """Undoes `pack_gaussians`, up to rounding; float32.

    Raises:
        ValueError: `data` is not a whole number of Gaussians.
    """
    count, rest = divmod(len(data), BYTES_PER_GAUSSIAN)
    if rest:
        raise ValueError(f"{len(data)} bytes are no whole number of Gaussians of {BYTES_PER_GAUSSIAN} bytes")
    planes, offset = [], 0
    for dtype, channels in (("<u2", 3), ("<f2", 3), ("<i2", 4), ("u1", 4)):
        plane = np.frombuffer(data, dtype, count * channels, offset)
        planes.append(torch.from_numpy(plane.reshape(count, channels).astype(np.float64)))
        offset += plane.nbytes
    positions, scales, quats, rgba = planes
    return Gaussians(
        means=(low + positions / 65535 * (high - low)).float(),
        quats=torch.nn.functional.normalize(quats, dim=-1).float(),
        scales=scales.float(),
        opacities=(rgba[:, 3] / 255).float(),
        colors=(rgba[:, :3] / 255).float(),
    )
