"""Prints the memory that training needs on each GPU, for a network of any size, without building its weights.

    python -m benchmarks.memory --network configs/network/wan2.1_14b.yaml --gpus 48

The network is built on the meta device, and what autograd keeps is counted in a forward pass there. Parameters,
gradients and optimizer state are split evenly over the GPUs, as FSDP2 does it; one block at a time is gathered, and the
next one beside it. Frozen weights are bfloat16; weights that train have a float32 master, a float32 gradient and the
two float32 moments of AdamW. Not counted are the CUDA context (about 1 GB) and fragmentation.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from scene4d.latent_grid import latent_frames
from scene4d.networks import WanGridTransformer

log = logging.getLogger(__name__)
GB = 1e9
HALF, MASTER, GRADIENT, MOMENTS = 2, 4, 4, 8  # bytes per parameter


@dataclass(frozen=True)
class Grid:
    """The grids of a training step on one GPU, in pixels.

    Args:
        views: Number of views.
        frames: Frames per view, 4k + 1.
        height: Height of the frames.
        width: Width of the frames.
        batch: Grids per GPU.
        stride: Pixels along the side of a latent.
    """

    views: int = 8
    frames: int = 29
    height: int = 144
    width: int = 256
    batch: int = 1
    stride: int = 8

    def latents(self, channels: int) -> Tensor:
        """Latents of the grids on the meta device."""
        frames, height, width = (
            latent_frames(self.frames),
            self.height // self.stride,
            self.width // self.stride,
        )
        return torch.empty(self.batch, self.views, frames, channels, height, width, device="meta")


@dataclass(frozen=True)
class Memory:
    """Bytes per GPU.

    Attributes:
        weights: Frozen weights and masters.
        training: Gradients and optimizer state.
        gathered: The blocks whose weights are whole at one time.
        activations: What the backward pass needs, by kind of checkpointing.
    """

    weights: float
    training: float
    gathered: float
    activations: dict[str, float]

    def total(self, checkpointing: str) -> float:
        """All of them together."""
        return self.weights + self.training + self.gathered + self.activations[checkpointing]


def estimate(
    network: WanGridTransformer, layers: Sequence[WanGridTransformer], grid: Grid, gpus: int
) -> Memory:
    """Counts the bytes per GPU.

    Args:
        network: The whole network, on the meta device.
        layers: The same with one block and with two, in bfloat16, from which the share of a block follows.
        grid: What a step trains on, on one GPU.
        gpus: Number of GPUs that share parameters and optimizer state.
    """
    trained, frozen = 0, 0
    for name, parameter in network.named_parameters():
        if any(re.search(pattern, name) for pattern in network.default_trainable):
            trained += parameter.numel()
        else:
            frozen += parameter.numel()
    one, two = (kept_bytes(layer, *inputs(layer, grid)) for layer in layers)
    block, count = two - one, len(network.blocks)
    tokens, attention = stream_bytes(network, grid)
    return Memory(
        weights=(HALF * frozen + MASTER * trained) / gpus,
        training=(GRADIENT + MOMENTS) * trained / gpus,
        gathered=2 * HALF * max(sum(p.numel() for p in block.parameters()) for block in network.blocks),
        activations={
            "none": one + (count - 1) * block,
            "selective": one + count * (tokens + attention),
            "full": one + count * tokens,
        },
    )


def inputs(network: WanGridTransformer, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise levels and captions on the meta device."""
    config = network.base.config
    latents = grid.latents(config.in_channels).to(network.base.proj_out.weight.dtype)
    text = latents.new_empty(grid.batch, network.text_length, config.text_dim)
    return latents, torch.empty(grid.batch, device=latents.device), text


def kept_bytes(module: nn.Module, *arguments: Tensor) -> int:
    """Runs a module and counts the bytes that autograd keeps for its backward pass, parameters apart."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(*arguments)  # lives until the sum is taken, so that no storage is counted twice
        total = sum(kept.values())
    del output
    return total


def stream_bytes(network: WanGridTransformer, grid: Grid) -> tuple[int, int]:
    """Bytes of the tokens between two blocks, and of the outputs of a block's two attentions, in bfloat16."""
    latents = grid.latents(network.base.config.in_channels)
    tokens = latents[:, :, :, 0].numel() // (
        network.patch_size[0] * network.patch_size[1] * network.patch_size[2]
    )
    heads = network.base.config.num_attention_heads
    width = heads * network.base.config.attention_head_dim
    return HALF * tokens * width, 2 * tokens * (HALF * width + 4 * heads)


def build(parser: ArgumentParser, options: Namespace, **changes: object) -> WanGridTransformer:
    """The network of the options on the meta device, with random weights and some settings changed."""
    options = options.clone()
    for name, value in {"pretrained": None, "dtype": "float32", **changes}.items():
        options[f"network.init_args.{name}"] = value
    with torch.device("meta"):
        return parser.instantiate(options).network


def main(arguments: Sequence[str] | None = None) -> Memory:
    """Command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_subclass_arguments(WanGridTransformer, "network", required=True)
    parser.add_class_arguments(Grid, "grid")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs over which FSDP2 splits the weights")
    options = parser.parse_args(arguments)
    network = build(parser, options)
    layers = [build(parser, options, num_layers=count).to(torch.bfloat16) for count in (1, 2)]
    grid = Grid(**options.grid.as_dict())
    memory = estimate(network, layers, grid, options.gpus)
    show(memory, network, grid, options.gpus)
    return memory


def show(memory: Memory, network: WanGridTransformer, grid: Grid, gpus: int) -> None:
    """Logs a table in Markdown."""
    total = sum(p.numel() for p in network.parameters())
    log.info("%.3f billion parameters on %d GPUs, %s", total / 1e9, gpus, grid)
    log.info("| checkpointing | weights | gradients, optimizer | gathered | activations | GB in all |")
    log.info("|---|---|---|---|---|---|")
    shared = [memory.weights, memory.training, memory.gathered]
    for checkpointing, kept in memory.activations.items():
        row = [x / GB for x in (*shared, kept, memory.total(checkpointing))]
        log.info("| %s | %s |", checkpointing, " | ".join(f"{x:.2f}" for x in row))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
