"""What checkpointing keeps: memory and the number of times that attention runs."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.kernels.attention import fused_view_time_attention


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x):
        q = self.inner(x).tanh()[:, :, None]
        return x + fused_view_time_attention(q, q, q, grid=(2, 3, 4))[:, :, 0]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Count(TorchDispatchMode):
    def __init__(self, name):
        super().__init__()
        self.name, self.calls = name, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.calls += operator.name() == self.name
        return operator(*args, **(kwargs or {}))


def run(checkpointing):
    torch.manual_seed(0)
    net, saved = Net(), []
    checkpoint_blocks(net, checkpointing)
    x = torch.randn(1, 24, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        out = net(x).square().sum()
    with Count("scene4d::fused_view_time_attention") as count:
        out.backward()
    return count.calls, sum(saved), [p.grad for p in net.parameters()], list(net.state_dict())


@pytest.mark.parametrize("checkpointing, again", [("none", 0), ("full", 3), ("selective", 0)])
def test_attention_runs_again_only_where_nothing_of_it_is_kept(checkpointing, again):
    calls, _, gradients, names = run(checkpointing)
    assert calls == again
    _, _, expected, plain = run("none")
    assert names == plain and all(torch.equal(a, b) for a, b in zip(gradients, expected))


def test_fewer_tensors_are_kept():
    assert run("full")[1] < run("none")[1] / 3
