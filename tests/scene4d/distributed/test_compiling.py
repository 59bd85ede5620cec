"""Blocks are compiled one by one, and nothing else."""

from torch import nn

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
