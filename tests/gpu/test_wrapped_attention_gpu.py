"""The attention through all that may wrap it on the GPU: compiling, checkpointing and autocast; and flex."""

from functools import partial

import pytest
import torch
from attention_cases import (
    HALF,
    TAKES,
    TOLERANCE,
    assert_close_to_oracle,
    contiguous,
    fused_projection,
    outputs_and_gradients,
    relative_errors,
)
from conftest import DEVICE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scene4d.distributed.checkpointing import checkpoint_blocks
from scene4d.distributed.compiling import compile_blocks
from scene4d.kernels.attention import fused_view_time_attention

KERNELS = TAKES[DEVICE.type]
FLEX_CASES = [  # each is compiled, forward and backward, which takes seconds
    ((2, 3, 13), torch.float16, 64),
    ((5, 3, 67), torch.float32, 64),
    ((2, 2, 128), torch.bfloat16, 128),
]


@pytest.mark.skipif(DEVICE.type == "cpu", reason="flex has no gradients on the CPU")
@pytest.mark.parametrize(("grid", "dtype", "channels"), FLEX_CASES)
def test_flex_matches_the_oracle(grid, dtype, channels, note_error):
    assert_close_to_oracle("flex", dtype, channels, grid, fused_projection, note_error)


def wrapped(backend):
    """A dtype that the backend takes, tensors of it, and a function around the attention."""
    dtype, grid = KERNELS[backend][0], (2, 3, 50)
    inputs = fused_projection((2, 300, 2, 64), dtype, DEVICE)

    def function(q, k, v):
        return fused_view_time_attention(q * 1.5, k, v.sin(), grid, backend=backend) * 2

    return function, inputs, torch.randn(inputs[0].shape, device=DEVICE), TOLERANCE[dtype]


@pytest.mark.parametrize("backend", [x for x in KERNELS if x in ("auto", "cpu", "flex")])
def test_compiles_to_one_graph(backend):
    function, inputs, cotangent, tolerance = wrapped(backend)
    eager = outputs_and_gradients(function, inputs, cotangent)
    compiled = outputs_and_gradients(torch.compile(function, fullgraph=True), inputs, cotangent)
    assert max(relative_errors(compiled, [x.double() for x in eager])) <= tolerance


@pytest.mark.parametrize("backend", KERNELS)
def test_autocast_casts_mixed_inputs(backend):
    """Rotary embeddings leave q and k in float32 while the value projection is in half precision."""
    half = next((x for x in KERNELS[backend] if x in HALF), torch.bfloat16)
    q, k, v = fused_projection((2, 300, 2, 64), torch.float32, DEVICE)
    attention = partial(fused_view_time_attention, grid=(2, 3, 50), backend=backend)
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    with torch.autocast(DEVICE.type, half):
        got = attention(*leaves, v.to(half))
    got.float().square().sum().backward()
    assert got.dtype == half and torch.equal(got, attention(*(x.to(half) for x in (q, k, v))))
    assert all(x.grad.dtype == torch.float32 and x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize("backend", [x for x in KERNELS if x != "flex"])
def test_forward_is_deterministic(backend):
    function, inputs, _, _ = wrapped(backend)
    assert torch.equal(function(*inputs), function(*inputs))


@pytest.mark.parametrize("backend", [x for x in KERNELS if x != "flex"])
def test_gradient_of_a_sum(backend):
    """An expanded gradient has stride 0. Every query's weights sum to one."""
    inputs = [x.requires_grad_() for x in contiguous((1, 300, 2, 64), KERNELS[backend][0], DEVICE)]
    fused_view_time_attention(*inputs, (2, 3, 50), backend=backend).sum().backward()
    assert inputs[2].grad.double().sum().item() == pytest.approx(300 * 2 * 64, rel=0.01)


class Block(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.inner, self.outer, self.backend = nn.Linear(128, 384), nn.Linear(128, 128), backend

    def forward(self, x):
        q, k, v = self.inner(x).unflatten(-1, (3, 2, 64)).unbind(2)
        return x + self.outer(fused_view_time_attention(q, k, v, (2, 3, 50), backend=self.backend).flatten(2))


class Network(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(backend) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Count(TorchDispatchMode):
    """How often the merged attention runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.calls += operator.name() == "scene4d::fused_view_time_attention"
        return operator(*args, **(kwargs or {}))


def step(backend, checkpointing="none", compiled=False, counted=False):
    torch.manual_seed(0)
    network = Network(backend).to(DEVICE, KERNELS[backend][0])
    checkpoint_blocks(network, checkpointing)
    if compiled:
        compile_blocks(network)
    x = torch.randn(1, 300, 128, device=DEVICE).to(KERNELS[backend][0])
    loss, count = network(x).float().square().mean(), Count()
    if counted:
        with count:
            loss.backward()
    else:
        loss.backward()
    return count.calls, [p.grad for p in network.parameters()]


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
@pytest.mark.parametrize("backend", KERNELS)
def test_checkpointing_changes_no_gradient(backend, checkpointing):
    merged = backend not in ("masked", "flex")
    calls, gradients = step(backend, checkpointing, counted=merged)
    assert calls == (2 if merged and checkpointing == "full" else 0)
    exact = [x.double() for x in step(backend)[1]]
    assert max(relative_errors(gradients, exact)) <= TOLERANCE[KERNELS[backend][0]]


@pytest.mark.parametrize(("backend", "checkpointing"), [("auto", "selective"), ("flex", "selective")])
def test_checkpointing_of_compiled_blocks_changes_no_gradient(backend, checkpointing):
    if backend not in KERNELS:
        pytest.skip(f"{backend} has no gradients on the {DEVICE.type}")
    exact = [x.double() for x in step(backend)[1]]
    gradients = step(backend, checkpointing, compiled=True)[1]
    assert max(relative_errors(gradients, exact)) <= TOLERANCE[KERNELS[backend][0]]
