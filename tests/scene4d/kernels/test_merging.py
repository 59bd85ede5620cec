"""The Triton kernels of the merge against plain torch: through Triton's interpreter where there is no GPU."""

import importlib
import sys

import pytest
import torch

from scene4d.kernels.dense_attention import MATH
from scene4d.kernels.merged_attention import SPLITS
from scene4d.kernels.merging import has_kernel, merge_gradients_plainly, merge_outputs_plainly

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}  # a rounding of the result
SHAPES = [  # batch, grid, heads, channels
    (1, (3, 4, 5), 2, 16),
    (2, (2, 3, 13), 3, 24),
    (2, (5, 2, 1), 1, 64),
    (1, (2, 2, 70), 2, 128),
]


@pytest.fixture(scope="module")
def kernels():
    """The kernels, whose decorator asks for the interpreter when the file is imported."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, "scene4d.kernels.triton_merging", raising=False)
        yield importlib.import_module("scene4d.kernels.triton_merging")
    sys.modules.pop("scene4d.kernels.triton_merging", None)


def dense_parts(shape, grid, dtype):
    q, k, v = (torch.randn(shape, dtype=dtype, device=DEVICE) for _ in range(3))
    return q, [MATH.forward(*(split(x, grid) for x in (q, k, v)), 0.2) for split in SPLITS]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch, grid, heads, channels", SHAPES)
def test_outputs(kernels, batch, grid, heads, channels, dtype):
    q, parts = dense_parts((batch, grid[0] * grid[1] * grid[2], heads, channels), grid, dtype)
    (expected, expected_lse), (out, lse) = (
        merge(iter(parts), q, grid) for merge in (merge_outputs_plainly, kernels.merge_outputs)
    )
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert out.is_contiguous() and lse.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch, grid, heads, channels", SHAPES)
def test_gradients(kernels, batch, grid, heads, channels, dtype):
    q = torch.randn(batch, grid[0] * grid[1] * grid[2], heads, channels, dtype=dtype, device=DEVICE)
    parts = [tuple(split(torch.randn_like(q), grid) for _ in range(3)) for split in SPLITS]
    expected = merge_gradients_plainly(iter(parts), q, grid)
    for found, wanted in zip(kernels.merge_gradients(iter(parts), q, grid), expected, strict=True):
        assert found.dtype == dtype and found.is_contiguous()
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_frame_that_outweighs_all_others(kernels):
    """Logits of the own frame above 100: A, B and C agree, and nothing cancels."""
    grid = (2, 3, 4)
    q, parts = dense_parts((1, 24, 2, 16), grid, torch.float32)
    parts = [(out, lse + 120) for out, lse in parts]
    (expected, _), (out, lse) = (
        merge(iter(parts), q, grid) for merge in (merge_outputs_plainly, kernels.merge_outputs)
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)
    assert lse.isfinite().all()


def test_other_layouts_and_padding_are_copied_first(kernels):
    grid = (2, 3, 4)
    q, parts = dense_parts((1, 24, 2, 16), grid, torch.float32)
    padded = [(out.contiguous(), torch.cat((lse, lse), -1)[..., : lse.shape[-1]]) for out, lse in parts]
    expected, out = (kernels.merge_outputs(iter(x), q, grid)[0] for x in (parts, padded))
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_cpu_merges_in_plain_torch(dtype):
    assert not has_kernel(torch.zeros(1, dtype=dtype))
