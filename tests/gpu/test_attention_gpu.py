"""Every backend of the attention on the GPU against a float64 masked softmax, and through all that may wrap it."""

import math
from functools import partial

import pytest
import torch
from attention_cases import (
    HALF,
    LAYOUTS,
    TAKES,
    TOLERANCE,
    contiguous,
    fused_projection,
    oracle,
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
GRIDS = [(3, 4, 50), (2, 3, 13), (1, 4, 50), (4, 1, 50), (3, 2, 1), (5, 3, 67)]
CASES = [(backend, dtype) for backend in KERNELS if backend != "flex" for dtype in KERNELS[backend]]
FLEX_CASES = [  # each is compiled, forward and backward, which takes seconds
    ((3, 4, 50), torch.bfloat16, 128),
    ((2, 3, 13), torch.float16, 64),
    ((5, 3, 67), torch.float32, 64),
    ((2, 2, 128), torch.bfloat16, 64),
]


def assert_close_to_oracle(backend, dtype, channels, grid, layout, note_error, scale=1.0):
    inputs = [x * scale for x in layout((2, math.prod(grid), 2, channels), dtype, DEVICE)]
    cotangent = torch.randn(inputs[0].shape, device=DEVICE).to(dtype)
    attention = partial(fused_view_time_attention, grid=grid, backend=backend)
    got = outputs_and_gradients(attention, inputs, cotangent)
    exact = outputs_and_gradients(partial(oracle, grid=grid), [x.double() for x in inputs], cotangent)
    assert all(a.dtype == dtype and a.shape == b.shape for a, b in zip(got, exact))
    errors = relative_errors(got, exact)
    for name, error in zip(("output", "gradients", "gradients", "gradients"), errors):
        note_error(f"attention {backend} {dtype} {name}", error)
    assert max(errors) <= TOLERANCE[dtype], (layout.__name__, errors)


@pytest.mark.parametrize("channels", [64, 128])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("backend", "dtype"), CASES)
def test_output_and_gradients_match_the_oracle(backend, dtype, grid, channels, note_error):
    for layout in LAYOUTS:
        assert_close_to_oracle(backend, dtype, channels, grid, layout, note_error)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="flex has no gradients on the CPU")
@pytest.mark.parametrize(("grid", "dtype", "channels"), FLEX_CASES)
def test_flex_matches_the_oracle(grid, dtype, channels, note_error):
    assert_close_to_oracle("flex", dtype, channels, grid, fused_projection, note_error)


@pytest.mark.parametrize("own_frame_logit", [20.0, 200.0])
@pytest.mark.parametrize(("backend", "dtype"), CASES)
def test_nothing_cancels_when_the_own_frame_dominates(backend, dtype, own_frame_logit):
    """The subtracted term is then as large as both added ones; errors stay within ten times those of a mask."""
    grid, channels = (3, 4, 17), 64
    q, k, v = contiguous((1, math.prod(grid), 2, channels), torch.float64, DEVICE)
    frame = torch.eye(12, channels, dtype=torch.float64, device=DEVICE).repeat_interleave(17, 0)
    frame = frame[None, :, None] * math.sqrt(own_frame_logit * math.sqrt(channels))
    inputs = [x.to(dtype) for x in (q * 0.1 + frame, k * 0.1 + frame, v)]
    cotangent = torch.randn(q.shape, device=DEVICE).to(dtype)
    exact = outputs_and_gradients(partial(oracle, grid=grid), [x.double() for x in inputs], cotangent)
    attention = {
        name: partial(fused_view_time_attention, grid=grid, backend=name) for name in (backend, "masked")
    }
    ours, masked = (
        relative_errors(outputs_and_gradients(f, inputs, cotangent), exact)
        for f in (attention[backend], attention["masked"])
    )
    slack = 100 if dtype in (torch.float32, torch.float64) else 1
    for error, bound in zip(ours, masked):
        assert error <= 10 * bound + slack * torch.finfo(dtype).eps, (ours, masked)


REFUSED = {
    "cuda": [
        ("flash", torch.float32, 64, "'flash' takes float16 or bfloat16, got float32"),
        ("cudnn", torch.float32, 64, "'cudnn' takes float16 or bfloat16, got float32"),
        ("cudnn", torch.float16, 256, "'cudnn' takes heads of at most 128 channels, got 256"),
        ("efficient", torch.float64, 64, "'efficient' takes float16 or bfloat16 or float32, got float64"),
        ("flex", torch.float64, 64, "'flex' takes float16, bfloat16 or float32, got float64"),
        ("flex", torch.bfloat16, 8, "'flex' takes heads of at least 16 channels on CUDA, got 8"),
        ("flash", torch.bfloat16, 12, "'flash' takes heads of a multiple of 8 channels, got 12"),
        ("efficient", torch.float32, 6, "'efficient' takes heads of a multiple of 4 channels, got 6"),
        ("cpu", torch.float32, 64, "'cpu' runs on cpu, got tensors on cuda"),
    ],
    "cpu": [
        ("flash", torch.bfloat16, 64, "'flash' runs on cuda, got tensors on cpu"),
        ("flex", torch.float64, 64, "'flex' takes float16, bfloat16 or float32, got float64"),
    ],
}


@pytest.mark.parametrize(("backend", "dtype", "channels", "message"), REFUSED[DEVICE.type])
def test_what_a_kernel_does_not_take_is_one_clear_error(backend, dtype, channels, message):
    with pytest.raises(ValueError, match=message) as error:
        fused_view_time_attention(
            *contiguous((1, 24, 2, channels), dtype, DEVICE), (2, 3, 4), backend=backend
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [12, 6, 40])
def test_auto_takes_any_number_of_channels(dtype, channels, note_error):
    assert_close_to_oracle("auto", dtype, channels, (2, 3, 13), contiguous, note_error)


def wrapped(backend):
    """A dtype that the backend takes, tensors of it, and a function around the attention."""
    dtype, grid = KERNELS[backend][0], (2, 3, 50)
    inputs = fused_projection((2, 300, 2, 64), dtype, DEVICE)

    def function(q, k, v):
        return fused_view_time_attention(q * 1.5, k, v.sin(), grid, backend=backend) * 2

    return function, inputs, torch.randn(inputs[0].shape, device=DEVICE), TOLERANCE[dtype]


@pytest.mark.parametrize("backend", KERNELS)
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


@pytest.mark.parametrize("backend", KERNELS)
def test_forward_is_deterministic(backend):
    function, inputs, _, _ = wrapped(backend)
    assert torch.equal(function(*inputs), function(*inputs))


@pytest.mark.parametrize("backend", KERNELS)
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


@pytest.mark.parametrize("backend", [x for x in KERNELS if x in ("auto", "cpu", "cudnn", "flex")])
def test_checkpointing_inside_compiled_blocks_changes_no_gradient(backend):
    exact = [x.double() for x in step(backend)[1]]
    for checkpointing in ("none", "full", "selective"):
        gradients = step(backend, checkpointing, compiled=True)[1]
        assert max(relative_errors(gradients, exact)) <= TOLERANCE[KERNELS[backend][0]], checkpointing
