"""The merged attention against an fp64 masked softmax, and through everything that may wrap it."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scene4d.kernels.attention import fused_view_time_attention, view_time_mask

GRIDS = [(3, 4, 5), (1, 4, 6), (4, 1, 6), (3, 2, 1), (2, 3, 13)]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 3e-2}


def contiguous(shape, dtype):
    return tuple(torch.randn(shape, dtype=dtype) for _ in range(3))


def fused_projection(shape, dtype):
    """q, k, v as slices of one b l 3 h d tensor."""
    b, length, h, d = shape
    return torch.randn(b, length, 3, h, d, dtype=dtype).unbind(2)


def heads_first(shape, dtype):
    """q, k, v stored b h l d."""
    b, length, h, d = shape
    return tuple(torch.randn(b, h, length, d, dtype=dtype).transpose(1, 2) for _ in range(3))


LAYOUTS = [contiguous, fused_projection, heads_first]


def oracle(q, k, v, grid, scale=None):
    """Softmax over the allowed keys in float64, the mask spelt out token by token."""
    views, times, tokens = grid
    name = [(view, time) for view in range(views) for time in range(times) for _ in range(tokens)]
    mask = torch.tensor([[a == c or b == d for c, d in name] for a, b in name])
    q, k, v = (x.double() for x in (q, k, v))
    logits = torch.einsum("blhd,bmhd->bhlm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = logits.masked_fill(~mask, -math.inf).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", weights, v)


def outputs_and_gradients(attention, inputs, cotangent):
    # not clone: it would make slices of a fused projection dense
    leaves = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x) for x in inputs]
    leaves = [x.requires_grad_() for x in leaves]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def assert_close_to_oracle(inputs, grid, dtype, backend="auto"):
    cotangent = torch.randn(inputs[0].shape, dtype=torch.float64).to(dtype)
    got = outputs_and_gradients(
        lambda q, k, v: fused_view_time_attention(q, k, v, grid, backend=backend), inputs, cotangent
    )
    wanted = outputs_and_gradients(
        lambda q, k, v: oracle(q, k, v, grid), [x.double() for x in inputs], cotangent
    )
    for a, b in zip(got, wanted):
        assert a.dtype == dtype and a.shape == b.shape
        assert (a.double() - b).norm() <= TOLERANCE[dtype] * b.norm()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("grid", GRIDS)
def test_output_and_gradients_match_the_oracle(grid, dtype, layout):
    torch.manual_seed(0)
    assert_close_to_oracle(layout((2, math.prod(grid), 3, 16), dtype), grid, dtype)


@pytest.mark.parametrize("backend", ["math", "masked"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_plain_backends_match_the_oracle(backend, dtype):
    torch.manual_seed(0)
    assert_close_to_oracle(contiguous((2, 60, 2, 8), dtype), (3, 4, 5), dtype, backend)


@pytest.mark.parametrize("own_frame_logit", [20.0, 200.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nothing_cancels_when_the_own_frame_dominates(own_frame_logit, dtype):
    """The subtracted term is then as large as both added ones; rounding stays that of a mask."""
    torch.manual_seed(0)
    views, times, tokens, channels = 3, 4, 5, 16
    grid = (views, times, tokens)
    q, k, v = contiguous((1, math.prod(grid), 2, channels), torch.float64)
    frame = torch.eye(views * times, channels, dtype=torch.float64).repeat_interleave(tokens, 0)
    frame = frame[None, :, None] * math.sqrt(own_frame_logit * math.sqrt(channels))
    q, k = q * 0.1 + frame, k * 0.1 + frame
    logits = torch.einsum("blhd,blhd->blh", q, k) / math.sqrt(channels)
    assert logits.mean() == pytest.approx(own_frame_logit, rel=0.1)
    inputs, cotangent = [x.to(dtype) for x in (q, k, v)], torch.randn(q.shape)
    exact = outputs_and_gradients(
        lambda *qkv: oracle(*qkv, grid), [x.double() for x in inputs], cotangent.to(dtype)
    )
    error = {}
    for backend in ("auto", "masked"):
        attention = partial(fused_view_time_attention, grid=grid, backend=backend)
        got = outputs_and_gradients(attention, inputs, cotangent)
        error[backend] = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exact)]
    # in float64 the mask repeats the oracle's operations, while the kernel's exp is good to 20 units in the last place
    rounding = 100 * torch.finfo(dtype).eps if dtype == torch.float64 else torch.finfo(dtype).eps
    for merged, masked in zip(error["auto"], error["masked"]):
        assert merged <= 3 * masked + rounding


def test_scale_is_used():
    q, k, v = contiguous((1, 24, 2, 8), torch.float32)
    got = fused_view_time_attention(q, k, v, (2, 3, 4), scale=1.7)
    torch.testing.assert_close(got.double(), oracle(q, k, v, (2, 3, 4), 1.7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [(1, 6, 8), (6, 1, 8)])
@pytest.mark.parametrize("backend", ["auto", "masked"])
def test_one_view_or_one_time_is_one_sdpa_bitwise(grid, backend, dtype):
    inputs = contiguous((2, 48, 2, 16), dtype)
    cotangent = torch.randn(inputs[0].shape)

    def dense(q, k, v):
        out = F.scaled_dot_product_attention(*(x.permute(0, 2, 1, 3) for x in (q, k, v)))
        return out.permute(0, 2, 1, 3)

    got = outputs_and_gradients(
        lambda *qkv: fused_view_time_attention(*qkv, grid, backend=backend), inputs, cotangent
    )
    expected = outputs_and_gradients(dense, inputs, cotangent)
    assert torch.equal(got[0], expected[0])
    for a, b in zip(got[1:], expected[1:]):
        if dtype == torch.float32:
            assert torch.equal(a, b)
        else:  # ours is computed in float32 and rounded once, torch's in bfloat16
            torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)


def test_one_view_is_bitwise_what_diffusers_wan_computes():
    from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

    torch.manual_seed(0)
    attention = WanAttention(dim=32, heads=2, dim_head=16, processor=WanAttnProcessor()).eval()
    x = torch.randn(2, 48, 32)
    q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(x))
    q, k, v = (y.unflatten(2, (2, 16)) for y in (q, k, attention.to_v(x)))
    out = fused_view_time_attention(q, k, v, (1, 6, 8)).flatten(2)
    assert torch.equal(attention.to_out[0](out), attention(x))


def test_mask_is_same_view_or_same_time():
    mask = view_time_mask((2, 2, 2))
    assert mask[0].tolist() == [True, True, True, True, True, True, False, False]
    assert torch.equal(mask, mask.T) and mask.sum() == 8 * 6


def test_gradcheck():
    torch.manual_seed(0)
    inputs = [x.requires_grad_() for x in contiguous((1, 12, 1, 3), torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *qkv: fused_view_time_attention(*qkv, (2, 3, 2), backend="math"), inputs
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operator_is_well_defined(layout):
    inputs = [x.detach().requires_grad_() for x in layout((2, 24, 2, 8), torch.float32)]
    operator = torch.ops.scene4d.fused_view_time_attention.default
    torch.library.opcheck(operator, (*inputs, 2, 3, 4, 0.35, "cpu"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_view_operator_is_well_defined(layout):
    inputs = [x.detach().requires_grad_() for x in layout((2, 24, 2, 16), torch.bfloat16)]
    torch.library.opcheck(torch.ops.scene4d.dense_attention.default, (*inputs, 0.25))


def test_flops_of_one_view_are_counted_in_half_precision():
    inputs = [x.requires_grad_() for x in contiguous((2, 60, 2, 8), torch.bfloat16)]
    with FlopCounterMode(display=False) as counter:
        fused_view_time_attention(*inputs, (1, 5, 12)).sum().backward()
    assert counter.get_total_flops() == (4 + 10) * 2 * 60 * 2 * 8 * 60


def test_compiles_to_one_graph():
    torch.manual_seed(0)
    inputs, cotangent = heads_first((2, 24, 2, 8), torch.float32), torch.randn(2, 24, 2, 8)
    attention = lambda *qkv: fused_view_time_attention(*qkv, (2, 3, 4)) * 2  # noqa: E731
    eager = outputs_and_gradients(attention, inputs, cotangent)
    compiled = outputs_and_gradients(
        torch.compile(attention, fullgraph=True, backend="aot_eager"), inputs, cotangent
    )
    for a, b in zip(compiled, eager):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant):
    inputs, cotangent = contiguous((2, 24, 2, 8), torch.float32), torch.randn(2, 24, 2, 8)
    attention = lambda *qkv: fused_view_time_attention(*qkv, (2, 3, 4)).sin()  # noqa: E731
    plain = outputs_and_gradients(attention, inputs, cotangent)
    leaves = [x.requires_grad_() for x in inputs]
    out = checkpoint(attention, *leaves, use_reentrant=reentrant)
    out.backward(cotangent)
    for a, b in zip([out, *(x.grad for x in leaves)], plain):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["auto", "math", "masked"])
@pytest.mark.parametrize("grid", [(2, 3, 4), (1, 6, 4)])
def test_autocast_casts_mixed_inputs_as_sdpa_does(grid, backend):
    """Rotary embeddings leave q and k in float32 while the value projection is bfloat16."""
    q, k, v = contiguous((1, 24, 2, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = fused_view_time_attention(q, k, v.bfloat16(), grid, backend=backend)
    assert got.dtype == torch.bfloat16
    half = (x.bfloat16() for x in (q, k, v))
    assert torch.equal(got, fused_view_time_attention(*half, grid, backend=backend))


def test_autocast_leaves_the_inner_float32_alone():
    """The math kernel multiplies float32 matrices inside the operator, which autocast must not touch."""
    q, k, v = (x.bfloat16() for x in contiguous((1, 24, 2, 8), torch.float32))
    plain = fused_view_time_attention(q, k, v, (2, 3, 4), backend="math")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused_view_time_attention(q, k, v, (2, 3, 4), backend="math"), plain)


def test_gradient_of_a_sum():
    """An expanded gradient has stride 0."""
    inputs = [x.requires_grad_() for x in contiguous((1, 24, 2, 8), torch.float32)]
    fused_view_time_attention(*inputs, (2, 3, 4)).sum().backward()
    # sum over queries and channels of the output: only through v, each query's weights sum to one
    assert inputs[2].grad.sum().item() == pytest.approx(24 * 2 * 8, rel=1e-5)
    assert inputs[2].grad.std() > 0.01


@pytest.mark.parametrize(("grid", "keys"), [((3, 4, 5), 5 * (3 + 4 + 1)), ((1, 12, 5), 60)])
def test_flops_are_counted(grid, keys):
    inputs = [x.requires_grad_() for x in contiguous((2, 60, 2, 8), torch.float32)]
    with FlopCounterMode(display=False) as counter:
        fused_view_time_attention(*inputs, grid).sum().backward()
    assert counter.get_total_flops() == (4 + 10) * 2 * 60 * 2 * 8 * keys


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (2, 3, 5)}, "24 tokens .* 2 x 3 x 5"),
        ({"grid": (0, 3, 4)}, r"\(0, 3, 4\)"),
        ({"grid": (6, 4)}, r"\(6, 4\)"),
        ({"backend": "turbo"}, "'turbo'"),
        ({"k": torch.zeros(1, 23, 2, 8)}, "23"),
        ({"v": torch.zeros(1, 24, 2, 8, dtype=torch.float64)}, "float64"),
    ],
)
def test_wrong_input_is_named(change, message):
    arguments = {name: torch.zeros(1, 24, 2, 8) for name in "qkv"} | {"grid": (2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        fused_view_time_attention(**(arguments | change))


@pytest.mark.parametrize(
    ("capability", "dtype", "channels", "tokens", "name"),
    [
        ((9, 0), torch.bfloat16, 128, 4, "cudnn"),
        ((9, 0), torch.bfloat16, 128, 1, "flash"),
        ((9, 0), torch.float16, 256, 4, "flash"),
        ((8, 0), torch.bfloat16, 128, 4, "flash"),
        ((9, 0), torch.float32, 64, 4, "efficient"),
        ((9, 0), torch.float64, 64, 4, "math"),
        ((9, 0), torch.bfloat16, 12, 4, "math"),
    ],
)
def test_auto_takes_the_fastest_kernel_of_a_card(capability, dtype, channels, tokens, name, monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from scene4d.kernels.attention import chosen_kernel

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():
        q = torch.empty(1, 24, 2, channels, dtype=dtype, device="cuda")
    assert chosen_kernel("auto", q, tokens).name == name
