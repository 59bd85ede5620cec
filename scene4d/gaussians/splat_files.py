"""Gaussians in smaller files than PLY: `.splat` (32 bytes each) and compressed PLY (16 bytes each).

Both round: colours and opacities to 8 bits, rotations to 8 and 10 bits. `.splat` opens in antimatter15's viewer and
its many relatives, compressed PLY in SuperSplat and the other PlayCanvas tools. Neither has room for
`Gaussians.blurred`, so only blurred ones, whose look does not depend on the viewer, are written.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from gsplat import export_splats

from scene4d.atomic import replacing
from scene4d.gaussians.ply import SH_C0
from scene4d.gaussians.usable import usable_gaussians
from scene4d.types import Gaussians

SPLAT = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
FAINT = 0.004  # gsplat leaves out opacities up to 1/255 itself
_OPACITY_MARGIN, _SCALE_MIN = 1e-6, 1e-12  # keep logit and logarithm finite


def write_splat(path: str | Path, gaussians: Gaussians) -> None:
    """Writes one set of blurred Gaussians as `.splat`, the largest and most opaque first, which players show first.

    (gsplat's own writer takes four Python calls for each Gaussian, minutes for two million.)

    Raises:
        ValueError: Leading axes, Gaussians without blur, or none that can be drawn; names the file.
    """
    plain = _checked(path, gaussians)
    records = np.zeros(len(plain.means), SPLAT)
    order = (plain.scales.prod(-1) * plain.opacities).argsort(descending=True)
    rgba = torch.cat([plain.colors, plain.opacities[:, None]], 1).clamp(0, 1) * 255
    quats = torch.nn.functional.normalize(plain.quats, dim=-1) * 128 + 128
    columns = {
        "means": plain.means, "scales": plain.scales, "rgba": rgba.round(), "quats": quats.round().clamp(0, 255)
    }  # fmt: skip
    for name, column in columns.items():
        records[name] = column[order].numpy().astype(SPLAT[name].base)
    with replacing(path) as temporary:
        temporary.write_bytes(records.tobytes())


def write_compressed_ply(path: str | Path, gaussians: Gaussians) -> None:
    """Writes one set of blurred Gaussians as the compressed PLY of SuperSplat, by gsplat.

    A set without any that are opaque enough for gsplat becomes one Gaussian that nobody sees.

    Raises:
        ValueError: Those of `write_splat`.
    """
    plain = _checked(path, gaussians)
    if not bool((plain.opacities > FAINT).any()):
        plain = unseen()
    data = export_splats(
        means=plain.means,
        scales=plain.scales.clamp(min=_SCALE_MIN).log(),
        quats=plain.quats.clone(),  # gsplat turns some in place
        opacities=plain.opacities.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN).logit(),
        sh0=((plain.colors - 0.5) / SH_C0)[:, None],
        shN=plain.means.new_zeros(len(plain.means), 0, 3),
        format="ply_compressed",
    )
    data = re.sub(
        rb"element sh \d+\n", b"", data, count=1
    )  # it has no property here, which other readers refuse
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def unseen() -> Gaussians:
    """One Gaussian that is too small to be seen."""
    point = torch.zeros(1, 3)
    turn = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    return Gaussians(
        point, turn, torch.full((1, 3), _SCALE_MIN), torch.full((1,), 2 * FAINT), point, blurred=True
    )


def _checked(path: str | Path, gaussians: Gaussians) -> Gaussians:
    """Float32 on the CPU, without those that cannot be drawn."""
    if gaussians.means.ndim != 2:
        raise ValueError(
            f"{path} holds one set of Gaussians, got means of shape {tuple(gaussians.means.shape)}"
        )
    if not gaussians.blurred:
        raise ValueError(f"{path} needs Gaussians that include the blur of the rasterizer, see with_blur")
    plain = gaussians.to(device="cpu", dtype=torch.float32).apply(torch.Tensor.detach)
    return usable_gaussians(plain, str(path))
