"""Time and peak memory of the reconstruction over views and timesteps (Table S1), and how they grow per frame.

    python -m benchmarks.reconstruction
    python -m benchmarks.reconstruction --device cpu --size 518 294 --views 4 --timesteps 1 --flops
    python -m benchmarks.reconstruction --device cpu --size 224 224 --views 2 4 8 --timesteps 1 2 --all-layers

A network of VGGT-1B's size with temporal attention and the Gaussian head gets random weights and random pictures; it
returns cameras, depths and Gaussians. On a GPU the aggregator is in bfloat16, on a CPU all is float32. A GPU's memory
is what torch allocated, a CPU's is what was resident (Linux); both are counted above the weights and the pictures. On
a CPU that others use, too, only the CPU seconds mean something.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from itertools import product

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.networks import vggt, vggt_settings
from benchmarks.gpu.part import forget
from benchmarks.gpu.report import Cells, Table, markdown_of
from benchmarks.gpu.timing import timed
from benchmarks.live_memory import LiveMemory
from scene4d.networks.vggt import ReconstructionNetwork
from scene4d.pipelines import Reconstructor

log = logging.getLogger(__name__)
SIZE, TINY_SIZE = (420, 630), (28, 42)  # multiples of the patch of 14 next to 416 x 624
PAPER = {(8, 16): "60.2 GB", (16, 16): "out of memory"}  # Table S1, A100

Size = tuple[int, int]


def build(device: torch.device, tiny: bool = False, all_layers: bool = False) -> ReconstructionNetwork:
    """The network that is measured.

    Args:
        device: Where it is made.
        tiny: Whether its sizes are those of a rehearsal.
        all_layers: Whether the tokens of all layers are kept for the heads, as the released VGGT does, and not only
            of those that the heads read.
    """
    # on a CPU autocast does not make layer norms float32, as it does on CUDA
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    network = vggt(device, dtype, tiny).eval()
    if all_layers:
        network.aggregator.kept = tuple(range(len(network.aggregator.frame_blocks)))
    return network


@torch.no_grad()
def reconstruct(network: ReconstructionNetwork, views: int, times: int, size: Size) -> None:
    """Reconstructs random pictures."""
    device = next(network.parameters()).device
    images = torch.rand(1, views, times, 3, *size, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        Reconstructor(network)(images)


def measure(network: ReconstructionNetwork, views: int, times: int, size: Size) -> Cells:
    """Time and memory of one grid."""
    device, start = next(network.parameters()).device, time.process_time()
    found = timed(lambda i: reconstruct(network, views, times, size), device, 1, 0)
    used = time.process_time() - start if device.type == "cpu" else None
    return {
        "frames": views * times, "seconds": found.seconds, "CPU s": used, "peak GB": found.peak / 1e9,
        "GB above weights": found.above / 1e9, "paper": PAPER.get((views, times)),
    }  # fmt: skip


def growth(rows: Sequence[Cells]) -> Cells:
    """Least squares of peak and seconds over the number of frames."""
    frames, peaks, seconds = (
        torch.tensor([float(x[name]) for x in rows], dtype=torch.float64)  # type: ignore[arg-type]
        for name in ("frames", "peak GB", "seconds")
    )
    design = torch.stack([torch.ones_like(frames), frames], 1)
    constant, slope = torch.linalg.lstsq(design, peaks[:, None]).solution.flatten().tolist()
    per_frame = torch.linalg.lstsq(design, seconds[:, None]).solution[1].item()
    return {"GB": constant, "GB per frame": slope, "s per frame": per_frame}


def tera_flops(views: int, times: int, size: Size, tiny: bool = False) -> float:
    """10^12 floating point operations of the network for one grid, counted without computing anything."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network = ReconstructionNetwork(**vggt_settings(tiny)).eval().requires_grad_(False)
        network(torch.rand(1, views, times, 3, *size))
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def live_bytes(network: ReconstructionNetwork, views: int, times: int, size: Size) -> int:
    """Bytes of the tensors that are alive at the most above the weights; under `FakeTensorMode` nothing is computed."""
    with LiveMemory() as memory:
        memory.add(network.parameters())
        before = memory.now
        network(torch.rand(1, views, times, 3, *size))
    return memory.peak - before


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reconstruction", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--views", nargs="+", type=int, default=[2, 4, 8, 16], help="Numbers of views.")
    add("--timesteps", nargs="+", type=int, default=[1, 4, 8, 16], help="Numbers of timesteps.")
    add("--size", nargs=2, type=int, default=SIZE, help="Height and width, multiples of 14 pixels.")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=default, choices=["cuda", "cpu"], help="Where it is measured.")
    add(
        "--all-layers",
        action="store_true",
        help="Measures the variant that keeps all layers, for comparison.",
    )
    add("--flops", action="store_true", help="Counts floating point operations, too.")
    add("--scale", default="full", choices=["full", "tiny"], help="Sizes of the network; tiny ones rehearse.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measures all pairs, small grids first, and logs the table."""
    options = options_of(arguments)
    device, tiny, size = torch.device(options.device), options.scale == "tiny", tuple(options.size)
    network, table = build(device, tiny, options.all_layers), Table()
    reconstruct(
        network, 2, 1, size if device.type == "cuda" else TINY_SIZE
    )  # libraries load, kernels are chosen
    for views, times in sorted(product(options.views, options.timesteps), key=lambda pair: pair[0] * pair[1]):
        forget(device)
        row: Cells = {"views": views, "timesteps": times} | measure(network, views, times, size)
        if options.flops:
            row["TFLOP"] = tera_flops(views, times, size, tiny)
        table.rows[f"{views}, {times}"] = row
        log.info("%s", row)
    if len(table.rows) > 1:
        table.rows["fit"] = {"views": "fit", "timesteps": ""} | growth([*table.rows.values()])
    log.info("\n%s", markdown_of(table))
    return table


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
