"""Blocks are compiled one by one, and nothing else."""

from functools import partial

import pytest
import torch
from torch import nn

from scene4d.distributed import compiling
from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.distributed.compiling import compile_blocks


class Block(nn.Linear):
    def compile(self, *arguments, **options):
        self.compiled = True


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block(2, 2) for _ in range(3))
        self.head = Block(2, 2)

    @property
    def blocks(self):
        return self.layers


def test_blocks_are_compiled_and_nothing_else():
    network = Network()
    compile_blocks(network)
    assert all(block.compiled for block in network.layers) and not hasattr(network.head, "compiled")


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_checkpointed_blocks_are_compiled_too(checkpointing, monkeypatch):
    """`Module.compile` leaves them as they are, in silence."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling.torch, "compile", partial(torch.compile, backend=keep))
    torch._dynamo.reset()
    plain, network = (Stack([nn.Linear(4, 4) for _ in range(3)]) for _ in range(2))
    network.load_state_dict(plain.state_dict())
    checkpoint_blocks(network, checkpointing)
    compile_blocks(network)
    x = torch.randn(2, 4, requires_grad=True)
    torch.testing.assert_close(network(x), plain(x))
    assert len(graphs) == 1  # equal blocks share it


class Stack(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x
