"""Attention and the network with their views split over ranks, beside one process; `test_view_parallel.py` starts it.

    python tests/view_cases.py FOLDER

Every rank computes the whole as well. Rank 0 writes the largest errors of all ranks into `FOLDER/found.json`, as shares
of the largest value, and what was refused.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from copy import deepcopy
from functools import partial
from itertools import product
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scene4d.diffusion.rectified_flow import RectifiedFlow
from scene4d.distributed.agreement import from_all_ranks
from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.distributed.view_parallel import ViewPart, split_views
from scene4d.kernels.attention import fused_view_time_attention
from scene4d.kernels.view_parallel_attention import view_parallel_attention
from scene4d.networks import WanGridTransformer
from scene4d.networks.wan import Diagonal, Fused, Sequential

GRIDS = [(4, 4, 5), (4, 8, 1), (8, 4, 13)]  # of any 1, 2 and 4 ranks
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def part_of(x, grid, part):
    """This rank's tokens."""
    return part.of(x.unflatten(1, (grid[0], -1))).flatten(1, 2)


def error(got, wanted):
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, wanted, strict=True))


def draw(grid, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, prod(grid), 3, 16, generator=generator).to(dtype) for _ in range(4)]


def differentiated(attention, inputs, cotangent):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return [x.double() for x in (out.detach(), *torch.autograd.grad(out, leaves, cotangent))]


def attention_error(part, grid, dtype, wrapped, backend="auto"):
    """This rank's tokens of output and gradients against those of the whole."""
    views, times, tokens = grid
    *inputs, cotangent = draw(grid, dtype)
    whole = partial(fused_view_time_attention, grid=grid, backend="masked")
    wanted = differentiated(whole, [x.double() for x in inputs], cotangent.double())
    own = [part_of(x, grid, part) for x in (*inputs, cotangent)]
    split = partial(
        view_parallel_attention,
        grid=(views // part.ranks, times, tokens),
        ranks=part.ranks,
        group=part.group,
        backend=backend,
    )
    got = differentiated(wrapped(split), own[:3], own[3])
    return error(got, [part_of(x, grid, part) for x in wanted])


WRAPPED = {
    "plain": lambda f: f,
    "checkpointed": lambda f: lambda *x: checkpoint(f, *x, use_reentrant=False),
    "compiled": lambda f: torch.compile(f, fullgraph=True, backend="aot_eager"),
}


def attentions(part):
    cases = [
        *product(GRIDS, DTYPES, ["plain"]),
        *product(GRIDS[:1], ["float32"], ["checkpointed", "compiled"]),
    ]
    found = {
        f"{grid} {dtype} {how}": attention_error(part, grid, DTYPES[dtype], WRAPPED[how])
        for grid, dtype, how in cases
    }
    return found | {"math": attention_error(part, GRIDS[0], torch.float32, WRAPPED["plain"], "math")}


def flops(part):
    """The work of all ranks together as a share of that of one process."""
    grid = (4, 4, 5)
    *inputs, cotangent = draw(grid, torch.float32)
    counts = []
    for ranks, attention in (
        (1, partial(fused_view_time_attention, grid=grid)),
        (
            part.ranks,
            partial(
                view_parallel_attention, grid=(4 // part.ranks, 4, 5), ranks=part.ranks, group=part.group
            ),
        ),
    ):
        given = inputs + [cotangent] if ranks == 1 else [part_of(x, grid, part) for x in (*inputs, cotangent)]
        with FlopCounterMode(display=False) as counter:
            differentiated(attention, given[:3], given[3])
        counts.append(counter.get_total_flops())
    return part.ranks * counts[1] / counts[0]


def network(architecture=None):
    torch.manual_seed(0)
    made = WanGridTransformer(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, text_dim=8, freq_dim=16, ffn_dim=32,
        num_layers=2, architecture=architecture,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():  # some start at zero, so that attention would change nothing
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def grids(views=4, times=4):
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(2, views, times, 4, 6, 10, generator=generator) for _ in range(2))
    mask = torch.zeros(2, views, times, dtype=torch.bool)
    mask[:, 0] = mask[0, :, 0] = (
        True  # the first part has nothing to generate at all where every rank has a view
    )
    return latents, mask, torch.randn(2, 1, 8, generator=generator), torch.tensor([0.3, 0.8]), noise


def trained(model):
    """Losses, and gradients as FSDP2 and DDP give them."""
    losses = RectifiedFlow().loss(model, *grids())
    losses.mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for gradient in gradients:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    return losses.detach(), gradients


def networks(mesh):
    """Losses, all gradients together, and a sample, for two rules of positions, with checkpointing and without."""
    found = {}
    for positions, how in ((None, "none"), (Diagonal(), "none"), (None, "full"), (None, "selective")):
        whole = network(Fused(positions))
        split = deepcopy(whole)
        checkpoint_blocks(split, how)
        split_views(split, mesh)
        (losses, gradients), (own, ours) = trained(whole), trained(split)
        latents, mask, text, _, noise = grids()
        samples = [
            list(RectifiedFlow().predictions(x, noise, latents, mask, text, 3))[-1] for x in (whole, split)
        ]
        scale = max(g.abs().max() for g in gradients)
        found[f"{positions} {how}"] = {
            "loss": error([own], [losses]),
            "gradients": max(
                ((a - b).abs().max() / scale).item() for a, b in zip(ours, gradients, strict=True)
            ),
            "sample": error(samples[1:], samples[:1]),
            "names": list(whole.state_dict()) == list(split.state_dict()),
        }
    return found


def refusals(mesh, part):
    def refused(call):
        try:
            call()
        except ValueError as problem:
            return str(problem)
        return None

    model, q = network(), torch.zeros(1, 4 * 3 * 2, 1, 8)
    split_views(model, mesh)
    attention = partial(view_parallel_attention, q, q, q)
    return {
        "one view": refused(lambda: RectifiedFlow().loss(model, *grids(1))),
        "views": refused(lambda: RectifiedFlow().loss(model, *grids(part.ranks + 1))),
        "times": refused(lambda: RectifiedFlow().loss(model, *grids(times=3))),
        "sequential": refused(lambda: split_views(network(Sequential()), mesh)),
        "linear": refused(lambda: split_views(torch.nn.Linear(1, 1), mesh)),
        "masked": refused(lambda: attention((3, 4, 2), part.ranks, part.group, backend="masked")),
        "tokens": refused(lambda: attention((3, 4, 3), part.ranks, part.group)),
    }


def main(folder):
    ranks = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("view",))
    part = ViewPart(mesh.get_local_rank(), ranks, mesh.get_group().group_name)
    found = from_all_ranks([attentions(part), networks(mesh), refusals(mesh, part), flops(part)])
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
