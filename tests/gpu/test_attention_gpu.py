"""Every backend of the attention on the GPU against a float64 masked softmax; flex is in a file of its own."""

import math
from functools import partial

import pytest
import torch
from attention_cases import (
    HALF,
    LAYOUTS,
    TAKES,
    assert_close_to_oracle,
    contiguous,
    oracle,
    outputs_and_gradients,
    relative_errors,
)
from conftest import DEVICE

from scene4d.kernels.attention import fused_view_time_attention

KERNELS = TAKES[DEVICE.type]
GRIDS = [(3, 4, 50), (2, 3, 13), (1, 4, 50), (4, 1, 50), (3, 2, 2), (3, 2, 1), (5, 3, 67)]
PLAIN = ("auto", "masked", "math")  # what runs one of the others, or needs none of our own operators
CASES = [(backend, dtype) for backend in KERNELS if backend != "flex" for dtype in KERNELS[backend]]


def cases():
    """Backends, dtypes, grids and numbers of channels, with few of them for the plain backends to save time."""
    for backend, dtype in CASES:
        plain = backend in PLAIN
        for grid in GRIDS[:3] if plain else GRIDS:
            if backend == "cudnn" and grid[2] == 1:
                continue  # it takes no single key, see below
            for channels in (64,) if plain else (64, 128):
                yield backend, dtype, grid, channels


@pytest.mark.parametrize(("backend", "dtype", "grid", "channels"), list(cases()))
def test_output_and_gradients_match_the_oracle(backend, dtype, grid, channels, note_error):
    for layout in LAYOUTS if grid in GRIDS[:2] else LAYOUTS[1:2]:
        assert_close_to_oracle(backend, dtype, channels, grid, layout, note_error)


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
    # the exponential of a logit of 200 is good to 200 units in the last place; a mask normalises by the same error
    slack = 1 if dtype in HALF else 10 * own_frame_logit
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
        ("cudnn", torch.bfloat16, 64, "'cudnn' takes at least 2 tokens per frame, got grid"),
        ("cpu", torch.float32, 64, "'cpu' runs on cpu, got tensors on cuda"),
    ],
    "cpu": [
        ("flash", torch.bfloat16, 64, "'flash' runs on cuda, got tensors on cpu"),
        ("flex", torch.float64, 64, "'flex' takes float16, bfloat16 or float32, got float64"),
    ],
}


@pytest.mark.parametrize(("backend", "dtype", "channels", "message"), REFUSED[DEVICE.type])
def test_what_a_kernel_does_not_take_is_one_clear_error(backend, dtype, channels, message):
    grid = (4, 6, 1) if message.endswith("grid") else (2, 3, 4)
    inputs = contiguous((1, 24, 2, channels), dtype, DEVICE)
    with pytest.raises(ValueError, match=message) as error:
        fused_view_time_attention(*inputs, grid, backend=backend)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels", [12, 6, 40])
def test_auto_takes_any_number_of_channels(dtype, channels, note_error):
    assert_close_to_oracle("auto", dtype, channels, (2, 3, 13), contiguous, note_error)
