"""What the tests of attention on a GPU share: an oracle, three memory layouts, and who takes what."""

import math

import torch

from scene4d.kernels.attention import view_time_mask

HALF = (torch.bfloat16, torch.float16)
TAKES = {  # what each backend computes, by device
    "cuda": {
        "auto": (*HALF, torch.float32, torch.float64),
        "flash": HALF,
        "efficient": (*HALF, torch.float32),
        "cudnn": HALF,
        "flex": (*HALF, torch.float32),
        "masked": (*HALF, torch.float32),
        "math": (*HALF, torch.float32, torch.float64),
    },
    "cpu": {
        "cpu": (torch.bfloat16, torch.float32),
        "masked": (torch.float32,),
        "math": (*HALF, torch.float32),
    },
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def contiguous(shape, dtype, device):
    return [torch.randn(shape, device=device).to(dtype) for _ in range(3)]


def fused_projection(shape, dtype, device):
    """q, k, v as slices of one b l 3 h d tensor."""
    b, length, h, d = shape
    return list(torch.randn(b, length, 3, h, d, device=device).to(dtype).unbind(2))


def heads_first(shape, dtype, device):
    """q, k, v stored b h l d."""
    b, length, h, d = shape
    return [torch.randn(b, h, length, d, device=device).to(dtype).transpose(1, 2) for _ in range(3)]


LAYOUTS = [contiguous, fused_projection, heads_first]


def oracle(q, k, v, grid):
    """Softmax over the allowed keys, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    logits = torch.einsum("blhd,bmhd->bhlm", q, k) * q.shape[-1] ** -0.5
    weights = logits.masked_fill(~view_time_mask(grid, q.device), -math.inf).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", weights, v)


def outputs_and_gradients(attention, inputs, cotangent):
    """Output and gradients of q, k, v; the leaves keep the strides of the inputs."""
    leaves = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) for x in inputs]
    leaves = [leaf.copy_(x).requires_grad_() for leaf, x in zip(leaves, inputs)]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def relative_errors(got, exact):
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exact)]
