"""Prints what a training needs on many GPUs: memory, communication and seconds per step, on paper.

    python -m benchmarks.scaling --config configs/wan/wan2.1_14b.yaml --gpus 48
    python -m benchmarks.scaling --config configs/vggt_1b/reconstruction_dynamic.yaml --gpus 8 \\
        --grid.views 4 --grid.frames 4 --grid.height 294 --grid.width 518 --grid.batch 1
    python -m benchmarks.scaling --config configs/small/diffusion_stage1.yaml --measure true

No weights, data or GPU are needed. One step of every stage runs with tensors that have shapes and no values: the
project's own network and checkpointing, FSDP2 on as many ranks as asked for, and the config's optimizer. Counted are
the bytes of all tensors that are alive at one time, floating point operations, and what ranks send to each other.

Memory does not hold the CUDA context (about 1 GB), fragmentation, and what kernels need inside. The types in which
layers compute are those of autocast on a CPU, which differ from a GPU's in a few layers. Of a reconstruction the
network alone is counted, not rendering and losses. Times are estimates from the stated rates, not measurements: the
first is that of a step whose communication hides behind its computation, the second that of a step where nothing does.

With `--measure` the same steps really run, on 1, 2 and 4 ranks of this machine's CPU, and the memory that was allocated
is compared with the estimate.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from benchmarks.dry_step import Plan, Step, dry_step
from benchmarks.grids import Grid
from benchmarks.measured_memory import measure
from benchmarks.traffic import Rates
from benchmarks.training_setup import Changes, Setup, read_setup
from scene4d.atomic import write_json
from scene4d.stages import Stage

log = logging.getLogger(__name__)
GB = 1e9
COLUMNS = (
    "stage", "strategy", "checkpointing", "batches per step", "weights", "optimizer, EMA", "gradients", "gathered",
    "activations", "GB at most", "TFLOP", "computing, s", "communication, s", "s per step", "MFU", "hours",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """One stage under one strategy.

    Attributes:
        stage: The stage.
        grid: Grids of a batch.
        plan: How the step is shared among ranks.
        step: What one rank needs for it.
        steps: Optimizer steps of the stage.
        computing: Seconds per optimizer step.
        communication: Seconds per optimizer step.
        mfu: Model FLOPs over those of the GPU's peak, if all communication hides.
    """

    stage: Stage
    grid: Grid
    plan: Plan
    step: Step
    steps: int
    computing: float
    communication: float
    mfu: float

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds per optimizer step: if communication hides behind computation, and if none of it does."""
        return max(self.computing, self.communication), self.computing + self.communication


def estimates(setup: Setup, options: Namespace, rates: Rates) -> Iterator[Estimate]:
    """Every stage under every strategy and kind of checkpointing."""
    begin = 0
    for stage in setup.stages:
        grid = setup.grid_of(stage)
        for strategy in options.strategies:
            for checkpointing in options.checkpointing or [setup.checkpointing]:
                replicas, views = (options.replicas, options.views) if strategy == "fsdp2" else (1, 1)
                plan = Plan(strategy, options.gpus, replicas, checkpointing, views=views)
                plan = replace(plan, accumulated=setup.accumulated(grid, plan.ranks // views))
                yield estimate(setup, stage, grid, plan, rates, stage.until - begin)
        begin = stage.until


def estimate(setup: Setup, stage: Stage, grid: Grid, plan: Plan, rates: Rates, steps: int) -> Estimate:
    """One row: a dry step, and its times at the rates."""
    step = dry_step(setup, grid, plan)
    batches = plan.accumulated
    computing = batches * rates.compute_seconds(step.flops)
    # DDP sums gradients once per optimizer step, FSDP2 after every batch
    rounds = 1 if plan.strategy == "ddp" else batches
    communication = rounds * rates.communication_seconds(step.collectives)
    busy = max(computing, communication)
    mfu = batches * step.model_flops / (busy * rates.peak * 1e12) if busy else 0.0
    return Estimate(stage, grid, plan, step, steps, computing, communication, mfu)


def row(number: int, found: Estimate, rates: Rates) -> str:
    """A line of the table."""
    step, plan, (hidden, exposed) = found.step, found.plan, found.seconds
    bytes_ = (step.parameters, step.optimizer, step.gradients + step.buckets, step.gathered, step.activations)
    fits = "" if step.peak <= rates.memory * GB else f" (more than {rates.memory:g})"
    name = plan.strategy if plan.replicas == 1 else f"{plan.strategy}, {plan.replicas} copies"
    name += f", views over {plan.views}" if plan.views > 1 else ""
    cells = [
        f"{number}: {found.grid.views} x {found.grid.frames}", name, plan.checkpointing, str(plan.accumulated),
        *(f"{x / GB:.2f}" for x in bytes_), f"{step.peak / GB:.2f}{fits}",
        f"{plan.accumulated * step.flops / 1e12:.4g}", f"{found.computing:.3g}", f"{found.communication:.3g}",
        f"{hidden:.3g} to {exposed:.3g}", f"{found.mfu:.2f}",
        f"{hidden * found.steps / 3600:.3g}" if found.steps else "-",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def show(setup: Setup, options: Namespace, rates: Rates) -> list[Estimate]:
    """Logs the table while it is made."""
    log.info("%d GPUs, %s\n%s\n", options.gpus, setup.grid, rates)
    log.info(
        "GB and seconds are those of one GPU and one optimizer step; times are estimates from these rates.\n"
    )
    log.info("| %s |\n|%s", " | ".join(COLUMNS), "---|" * len(COLUMNS))
    found: list[Estimate] = []
    for x in estimates(setup, options, rates):
        log.info("%s", row(setup.stages.index(x.stage) + 1, x, rates))
        found.append(x)
    return found


def command_line() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", nargs="+", type=str, required=True, help="a training; later files over earlier ones")
    add("--gpus", type=PositiveInt, default=8, help="number of GPUs")
    add("--strategies", nargs="+", choices=("ddp", "fsdp2"), default=["ddp", "fsdp2"])
    add(
        "--replicas",
        type=PositiveInt,
        default=1,
        help="copies of the weights of fsdp2, as many as nodes for HSDP",
    )
    add(
        "--views",
        type=PositiveInt,
        default=1,
        help="GPUs of fsdp2 that share a grid, each with some of its views",
    )
    kinds = ("none", "selective", "full")
    add("--checkpointing", nargs="+", choices=kinds, default=None, help="instead of the config's")
    add("--measure", type=bool, default=False, help="measure memory on 1, 2 and 4 CPU ranks instead")
    add("--json", type=Path, default=None, help="file for all figures")
    parser.add_class_arguments(Changes, "grid")
    parser.add_class_arguments(Rates, "rates")
    return parser


def main(arguments: Sequence[str] | None = None) -> list[object]:
    """Command line.

    Raises:
        SystemExit: The config says too little, or the numbers do not fit together.
    """
    options = command_line().parse_args(arguments)
    changes, rates = Changes(**options.grid.as_dict()), Rates(**options.rates.as_dict())
    try:
        found: list[object]
        if options.measure:
            kinds = options.checkpointing
            found = [*measure(options.config, changes, options.strategies, kinds, views=options.views)]
        else:
            found = [*show(read_setup(options.config, changes), options, rates)]
    except ValueError as error:
        raise SystemExit(f"scaling: {error}") from error
    if options.json is not None:
        write_json(options.json, found)
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.simplefilter("ignore")
    main()
