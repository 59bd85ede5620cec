"""FlexAttention as a backend: its blocks, its output on the CPU, and what it refuses."""

import math

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from scene4d.kernels import flex_attention
from scene4d.kernels.attention import fused_view_time_attention
from scene4d.kernels.flex_attention import block_mask

GRIDS = [(3, 4, 50), (2, 3, 64), (2, 2, 13), (2, 3, 128), (5, 3, 1), (1, 4, 40)]


@pytest.fixture
def not_lowered(monkeypatch):
    """Compiles without C++, which takes half a minute on the CPU."""

    def compiled(grid, block):
        return torch.compile(flex_attention._attend, dynamic=False, fullgraph=True, backend="aot_eager")

    monkeypatch.setattr(flex_attention, "_compiled", compiled)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("grid", GRIDS)
def test_blocks_are_those_of_a_mask_of_all_pairs(grid, block):
    ours, length = block_mask(grid, torch.device("cpu"), block), math.prod(grid)
    theirs = create_block_mask(ours.mask_mod, None, None, length, length, device="cpu", BLOCK_SIZE=block)
    assert ours.shape == theirs.shape and torch.equal(ours.to_dense(), theirs.to_dense())
    for kind in ("", "full_"):
        for side in ("kv", "q"):
            counts = getattr(ours, f"{kind}{side}_num_blocks")
            assert torch.equal(counts, getattr(theirs, f"{kind}{side}_num_blocks"))
            columns, expected = (getattr(x, f"{kind}{side}_indices")[0, 0] for x in (ours, theirs))
            for row, count in enumerate(counts[0, 0].tolist()):
                assert torch.equal(columns[row, :count], expected[row, :count])


def inputs(grid, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(2, math.prod(grid), 2, 16, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("grid", GRIDS)
def test_output_is_that_of_the_mask(grid, not_lowered):
    q, k, v = inputs(grid)
    with torch.no_grad():
        found = fused_view_time_attention(q, k, v, grid, backend="flex", scale=0.3)
        expected = fused_view_time_attention(q, k, v, grid, backend="masked", scale=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_output_of_the_lowered_kernel_is_that_of_the_mask():
    grid = (2, 3, 50)
    q, k, v = inputs(grid)
    function = torch.compile(
        lambda q, k, v: fused_view_time_attention(q, k, v, grid, backend="flex") * 2, fullgraph=True
    )
    with torch.no_grad():
        expected = fused_view_time_attention(q, k, v, grid, backend="masked")
        for found in (fused_view_time_attention(q, k, v, grid, backend="flex"), function(q, k, v) / 2):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_go_through_where_a_device_has_them(not_lowered, monkeypatch, checkpointed):
    """As on CUDA, but with torch's plain form of the operator."""
    monkeypatch.setattr(flex_attention, "_refusal", lambda inputs: None)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *inputs: None)
    grid, found = (2, 3, 13), {}
    for backend in ("flex", "masked"):
        leaves = [x.requires_grad_() for x in inputs(grid)]
        attention = lambda *qkv: fused_view_time_attention(*qkv, grid, backend=backend)  # noqa: B023, E731
        if checkpointed:
            out = torch.utils.checkpoint.checkpoint(attention, *leaves, use_reentrant=False)
        else:
            out = attention(*leaves)
        found[backend] = torch.autograd.grad(out.sin().sum(), leaves)
    for ours, expected in zip(found["flex"], found["masked"]):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_grid_is_built_once_and_a_training_may_use_what_a_validation_built():
    grid = (2, 3, 7)
    flex_attention._lists.cache_clear()
    with torch.inference_mode():
        block_mask(grid, torch.device("cpu"))
    block_mask(grid, torch.device("cpu"))
    info = flex_attention._lists.cache_info()
    assert (info.misses, info.hits) == (1, 1) and info.maxsize is not None
    assert not any(x.is_inference() for x in flex_attention._lists(grid, 128, torch.device("cpu")))


def test_lists_of_blocks_are_well_defined():
    operator = torch.ops.scene4d.view_time_blocks.default
    torch.library.opcheck(operator, (2, 3, 50, 128, torch.device("cpu")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requires_grad": True}, "'flex' has no gradients on the CPU, use 'auto' there"),
        ({"dtype": torch.float64}, "'flex' takes float16, bfloat16 or float32, got float64"),
    ],
)
def test_what_it_does_not_take_is_said(change, message):
    q = torch.zeros(1, 24, 2, 16, **change)
    with pytest.raises(ValueError, match=message):
        fused_view_time_attention(q, q, q, (2, 3, 4), backend="flex")


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("flash", {}, "'flash' runs on cuda, got tensors on cpu"),
        ("flash", {"device": "cuda"}, "'flash' takes float16 or bfloat16, got float32"),
        ("efficient", {"device": "cuda", "dtype": torch.float16}, "multiple of 8 channels, got 12"),
        (
            "cudnn",
            {"device": "cuda", "dtype": torch.float16, "channels": 136},
            "at most 128 channels, got 136",
        ),
        ("cpu", {"device": "cuda"}, "'cpu' runs on cpu, got tensors on cuda"),
    ],
)
def test_kernels_say_what_they_take(backend, options, message):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(ValueError, match=message):
        options = {"channels": 12, **options}
        q = torch.empty(1, 24, 2, options.pop("channels"), **options)
        fused_view_time_attention(q, q, q, (2, 3, 4), backend=backend)
