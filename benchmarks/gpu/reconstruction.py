"""Reconstruction by a network of VGGT-1B's size with temporal attention and Gaussian head: time and memory."""

from __future__ import annotations

from functools import partial
from itertools import product

from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from benchmarks.reconstruction import SIZE, TINY_SIZE, build, growth, measure, reconstruct
from scene4d.networks.vggt import ReconstructionNetwork

COUNTS, TINY_COUNTS = (1, 2, 4, 8, 16), (1, 2)


def reconstruction(part: Part) -> None:
    """All numbers of views and timesteps, small grids first, and the growth per frame."""
    counts = TINY_COUNTS if part.tiny else COUNTS
    pairs = [(v, t) for v, t in product(counts, counts) if v > 1 and t != 2 or part.tiny]
    network: list[ReconstructionNetwork] = []
    for views, times in sorted(pairs, key=lambda pair: pair[0] * pair[1]):
        labels: Cells = {"views": views, "timesteps": times}
        part.row(labels, partial(_row, part, views, times, network))
    points = [
        x for x in part.table.rows.values() if isinstance(x.get("peak GB"), float) and x.get("timesteps")
    ]
    if len(points) > 2:
        part.row({"views": "fit", "timesteps": ""}, lambda: growth(points), needs=-1)


def _row(part: Part, views: int, times: int, built: list[ReconstructionNetwork]) -> Cells:
    size = TINY_SIZE if part.tiny else SIZE
    if not built:
        built.append(build(part.device, part.tiny))
        reconstruct(built[0], 2, 1, size)  # libraries load, kernels are chosen
    return measure(built[0], views, times, size)
