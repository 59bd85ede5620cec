"""Sampling of 8 views x 29 frames by networks of the size of Wan2.1's 1.3B and 14B, beside the paper's 11B."""

from __future__ import annotations

from collections import deque
from functools import partial

import torch

from benchmarks.gpu.networks import latents_of, text_of, wan
from benchmarks.gpu.part import Part, forget
from benchmarks.gpu.report import Cells
from benchmarks.gpu.timing import timed
from callbacks.step_flops import StepFlops, peak_tflops
from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.networks import WanGridTransformer

PAPER = {4: 47.2, 8: 89.4, 16: 173.8, 40: 472.0}  # seconds, 11B on one A100 (appendix B)
SIZES = {"144 x 256": (8, 8, 18, 32), "288 x 512": (8, 8, 36, 64)}
TINY = {"32 x 32": (2, 2, 4, 4)}
MEASURED, LONGEST = 4, 12.0  # steps of every row; seconds that all 40 steps may take to be measured, too


def sampling(part: Part) -> None:
    """All rows, those of the small network first."""
    part.row({"network": "paper: 11B on one A100"}, lambda: {f"{n} steps, s": x for n, x in PAPER.items()})
    for name in ("wan2.1_1.3b", "wan2.1_14b"):
        network: list[WanGridTransformer] = []  # built when a row is really measured
        for size, shape in (TINY if part.tiny else SIZES).items():
            labels: Cells = {"network": name, "size": f"8 x 29 x {size}"}
            part.row(labels, partial(_row, part, name, shape, network))
        network.clear()
        forget(part.device)


@torch.no_grad()
def _row(part: Part, name: str, shape: tuple[int, int, int, int], built: list[WanGridTransformer]) -> Cells:
    if not built:
        built.append(wan(name, part.device, part.tiny).eval().requires_grad_(False))
    network, flow = built[0], RectifiedFlow("velocity", clean_references=False, shift=3.0)
    (latents, mask), text = latents_of(shape, part.device), text_of(built[0], part.device)

    def sample(steps: int) -> None:
        noise = torch.randn_like(latents)
        deque(flow.predictions(network, noise, latents, mask, text, steps), maxlen=1)

    with StepFlops() as counter:  # the warm-up, too
        sample(1)
    found = timed(lambda i: sample(MEASURED), part.device, 1, 0)
    seconds, each = {MEASURED: found.seconds}, found.seconds / MEASURED
    if each * 40 < min(LONGEST, part.left):
        seconds[40] = timed(lambda i: sample(40), part.device, 1, 0).seconds
    peak = peak_tflops(torch.cuda.get_device_name()) if part.device.type == "cuda" else None
    rate = counter.get_total_flops() / each / 1e12
    return {
        **{f"{n} steps, s": seconds.get(n, each * n) for n in PAPER},
        "measured": " and ".join(map(str, seconds)), "s per evaluation": each,
        "TFLOP per evaluation": counter.get_total_flops() / 1e12, "MFU": rate / peak if peak else None,
        "peak GB": found.peak / 1e9,
    }  # fmt: skip
