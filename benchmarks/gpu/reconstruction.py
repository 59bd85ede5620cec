"""Reconstruction by a network of VGGT-1B's size with temporal attention and Gaussian head: time and memory."""

from __future__ import annotations

from functools import partial
from itertools import product

import torch

from benchmarks.gpu.networks import vggt
from benchmarks.gpu.part import Part
from benchmarks.gpu.report import Cells
from benchmarks.gpu.timing import timed
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.pipelines import Reconstructor

SIZE, TINY_SIZE = (420, 630), (28, 42)  # multiples of the patch of 14 next to 416 x 624
COUNTS, TINY_COUNTS = (1, 2, 4, 8, 16), (1, 2)
PAPER = {(8, 16): "60.2 GB", (16, 16): "out of memory"}  # Table S1, A100


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
        part.row({"views": "fit", "timesteps": ""}, lambda: _fit(points))


@torch.no_grad()
def _row(part: Part, views: int, times: int, built: list[ReconstructionNetwork]) -> Cells:
    # on a CPU autocast does not make layer norms float32, as it does on CUDA
    dtype = torch.float32 if part.device.type == "cpu" else torch.bfloat16
    if not built:
        built.append(vggt(part.device, dtype, part.tiny).eval())
        _reconstruct(part, built[0], 2, 1)  # libraries load, kernels are chosen
    found = timed(lambda i: _reconstruct(part, built[0], views, times), part.device, 1, 0)
    frames = views * times
    return {
        "frames": frames, "seconds": found.seconds, "peak GB": found.peak / 1e9,
        "GB above weights": found.above / 1e9, "paper": PAPER.get((views, times)),
    }  # fmt: skip


def _reconstruct(part: Part, network: ReconstructionNetwork, views: int, times: int) -> None:
    height, width = TINY_SIZE if part.tiny else SIZE
    images = torch.rand(1, views, times, 3, height, width, device=part.device)
    with torch.autocast(part.device.type, torch.bfloat16):
        Reconstructor(network)(images)


def _fit(rows: list[Cells]) -> Cells:
    """Least squares of the peak over the number of frames."""
    frames, peaks, seconds = (
        torch.tensor([float(x[name]) for x in rows], dtype=torch.float64)  # type: ignore[arg-type]
        for name in ("frames", "peak GB", "seconds")
    )
    design = torch.stack([torch.ones_like(frames), frames], 1)
    constant, slope = torch.linalg.lstsq(design, peaks[:, None]).solution.flatten().tolist()
    per_frame = torch.linalg.lstsq(design, seconds[:, None]).solution[1].item()
    return {"GB": constant, "GB per frame": slope, "s per frame": per_frame}
