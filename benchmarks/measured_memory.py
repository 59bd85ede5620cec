"""Measures the memory of training steps on ranks of this machine's CPU, beside what a dry run says."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks.dry_step import Plan, Ready, dry_step, network_of
from benchmarks.live_memory import AllocatedMemory, allocated_bytes
from benchmarks.training_setup import Changes, Setup, read_setup

log = logging.getLogger(__name__)
RANKS = (1, 2, 4)


@dataclass(frozen=True)
class Measured:
    """One case; bytes of the rank that needs most.

    Attributes:
        plan: How the step was shared among ranks.
        kept: Weights, gradients, optimizer and averages of this rank, by the size of their storages.
        peak: The most that the C library had allocated, over what it had before the network was built.
        estimated_kept: The same as `kept`, by the dry run.
        estimated: The same as `peak`, by the dry run.
    """

    plan: Plan
    kept: int
    peak: int
    estimated_kept: int
    estimated: int

    @property
    def error(self) -> float:
        """Relative error of the estimated peak."""
        return self.estimated / self.peak - 1


def measure(
    configs: Sequence[str],
    changes: Changes,
    strategies: Sequence[str],
    checkpointing: Sequence[str] | None,
    ranks: Sequence[int] = RANKS,
    views: int = 1,
) -> list[Measured]:
    """Runs two steps of every case on real ranks, and logs a table.

    Args:
        configs: The training, small enough for this machine; its first stage is taken.
        changes: What takes the place of the config's.
        strategies: "ddp", "fsdp2" or both.
        checkpointing: Kinds of it; None is the config's.
        ranks: Numbers of ranks.
        views: How many ranks of FSDP2 share a grid, where there are that many.
    """
    setup = read_setup(configs, changes)
    kinds = checkpointing or [setup.checkpointing]
    plans = [
        Plan(x, n, 1, kind, views=views if x == "fsdp2" and n % views == 0 else 1)
        for n, x, kind in product(ranks, strategies, kinds)
    ]
    dry = [dry_step(setup, setup.grid_of(setup.stages[0]), plan) for plan in plans]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (Path(folder), list(configs), changes, plans)
        multiprocessing.spawn(_rank, arguments, nprocs=max(ranks))
        files = sorted(Path(folder).glob("rank_*.json"))
        found = [json.loads(file.read_text()) for file in files]
    measured = []
    for number, (plan, step) in enumerate(zip(plans, dry)):
        kept, peak = (max(rank[str(number)][k] for rank in found[: plan.ranks]) for k in range(2))
        other = setup.autoencoder  # the real step has none
        # DDP's own buckets are nobody's tensors here
        kept_on_paper = step.kept - step.buckets - other
        measured.append(Measured(plan, kept, peak, kept_on_paper, step.peak - other))
    show(measured)
    return measured


def show(measured: Sequence[Measured]) -> None:
    """Logs a table in Markdown."""
    log.info(
        "| ranks | strategy | views over | checkpointing | kept, MB | estimated | peak, MB | estimated | error |"
    )
    log.info("|---|---|---|---|---|---|---|---|---|")
    for x in measured:
        cells = " | ".join(f"{y / 1e6:.2f}" for y in (x.kept, x.estimated_kept, x.peak, x.estimated))
        log.info(
            "| %d | %s | %d | %s | %s | %.1f%% |",
            x.plan.ranks, x.plan.strategy, x.plan.views, x.plan.checkpointing, cells, 100 * x.error,
        )  # fmt: skip


def _rank(rank: int, folder: Path, configs: list[str], changes: Changes, plans: Sequence[Plan]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    setup, found = read_setup(configs, changes), dict[int, tuple[int, int]]()
    for number, plan in enumerate(plans):
        if rank < plan.ranks:
            store = dist.FileStore(str(folder / f"store_{number}"), plan.ranks)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=plan.ranks)
            found[number] = _measured(setup, plan)
            dist.destroy_process_group()
    (folder / f"rank_{rank}.json").write_text(json.dumps(found))


def _measured(setup: Setup, plan: Plan) -> tuple[int, int]:
    """Bytes that are kept from step to step, and the most that is allocated in a step."""
    _run(setup, plan)  # libraries allocate what they keep
    gc.collect()
    before = allocated_bytes()
    kept, peak = _run(setup, plan)
    return kept, peak - before


def _run(setup: Setup, plan: Plan) -> tuple[int, int]:
    ready = Ready(setup, setup.grid_of(setup.stages[0]), plan, network_of(setup, plan))
    memory = AllocatedMemory()
    ready.backward()  # in DDP the first one differs
    ready.optimizer.zero_grad()
    with memory:
        ready.backward()
        kept = ready.state().kept - setup.autoencoder
        ready.update()
    return kept, memory.peak
