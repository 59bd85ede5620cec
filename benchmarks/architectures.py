"""Compares the three architectures on one base: parameters, work per training step and, with `--steps`, losses.

    python -m benchmarks.architectures
    python -m benchmarks.architectures --network configs/network/wan2.1_1.3b.yaml \\
        --grid.views 8 --grid.frames 29 --grid.height 144 --grid.width 256
    python -m benchmarks.architectures --steps 200 --json runs/architectures.json

Parameters and FLOPs are counted on the meta device, without weights. A training step is one forward pass and the
backward pass of what trains by default, without what checkpointing computes again; FLOPs are twice the multiply-adds
of products and convolutions, and attention counts the pairs that it scores. The training is `--config`, once per
architecture, from the same weights, with the same batches, noise and dropout, one step of each in turn.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.architecture_training import train
from benchmarks.grids import Grid, build, inputs
from scene4d.atomic import write_json
from scene4d.networks import WanGridTransformer
from scene4d.networks.trainable import trainable_parameters

log = logging.getLogger(__name__)
ARCHITECTURES = ("Fused", "Sequential", "Parallel")
NETWORK = "configs/network/small_wan.yaml"
TRAINING = "configs/small/diffusion_stage1.yaml"
CLASS_PATH = "scene4d.networks.wan.{}"


@dataclass(frozen=True)
class Cost:
    """The size of a network and the work of one training step.

    Attributes:
        parameters: All parameters.
        trained: Those that train by default.
        new: Those that the base does not have.
        forward: FLOPs of a forward pass.
        step: FLOPs of a forward and a backward pass.
    """

    parameters: int
    trained: int
    new: int
    forward: int
    step: int


def cost(network: WanGridTransformer, grid: Grid) -> Cost:
    """Counts parameters and FLOPs of a network on the meta device; it is frozen up to what trains by default."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    trained = trainable_parameters(network, network.default_trainable)
    with FlopCounterMode(display=False) as counter:
        output = network(*inputs(network, grid))
        forward = counter.get_total_flops()
        output.sum().backward()
    return Cost(
        parameters=sum(sizes.values()),
        trained=sum(sizes[name] for name in trained),
        new=sum(sizes[name] for name in network.new_weights),
        forward=forward,
        step=counter.get_total_flops(),
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_subclass_arguments(WanGridTransformer, "network", required=False)
    parser.add_class_arguments(Grid, "grid")
    add = parser.add_argument
    add("--steps", type=int, default=0, help="optimizer steps of each architecture; 0 only counts")
    add("--config", type=list[str], default=[TRAINING], help="the training, later files over earlier ones")
    add("--json", type=Path, default=None, help="file for all figures")
    parser.set_defaults({"grid": dict(views=4, frames=9, height=64, width=64)})
    options = parser.parse_args(arguments)
    if options.network is None:  # as a default its settings would stay under those of another network
        given = sys.argv[1:] if arguments is None else arguments
        options = parser.parse_args([*given, "--network", NETWORK])
    results: dict[str, object] = {"costs": costs(parser, options)}
    if options.steps:
        results["training"] = train(options.config, class_paths(), options.steps)
    if options.json is not None:
        write_json(options.json, results)
    return results


def class_paths() -> dict[str, str]:
    """Class paths of the architectures by name; the first is what the others are compared with."""
    return {name: CLASS_PATH.format(name) for name in ARCHITECTURES}


def costs(parser: ArgumentParser, options: Namespace) -> dict[str, Cost]:
    """Counts, and logs a table in Markdown."""
    grid = Grid(**options.grid.as_dict())
    log.info("%s\n", grid)
    log.info("| | parameters | trained by default | new | TFLOP forward | forward and backward | ratio |")
    log.info("|---|---|---|---|---|---|---|")
    found: dict[str, Cost] = {}
    for name, class_path in class_paths().items():
        architecture = Namespace(class_path=class_path, init_args=Namespace())
        found[name] = x = cost(build(parser, options, architecture=architecture), grid)
        millions = " | ".join(f"{count / 1e6:.3f} M" for count in (x.parameters, x.trained, x.new))
        work, ratio = f"{x.forward / 1e12:.4g} | {x.step / 1e12:.4g}", x.step / found[ARCHITECTURES[0]].step
        log.info("| %s | %s | %s | %.3f |", name, millions, work, ratio)
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
