"""Dense attention that also gives its log-sum-exp, and whose backward takes any out and log-sum-exp.

Every kernel is a pair `forward(q, k, v, scale) -> out, lse` and
`backward(grad, q, k, v, out, lse, scale) -> grad_q, grad_k, grad_v`, with q, k, v, out, grad of shape
`n h l d` and lse (natural logarithm) of shape `n h l`. Handing the backward the out and lse of a softmax
over MORE keys than k gives exactly these keys' share of its gradients, as ring attention does.

Only `CPU` and `MATH` were ever run; the CUDA kernels were checked for shapes under fake tensors alone. The latter read
rows of channels 16 bytes at a time. Without dropout they read no seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_flop_count

aten = torch.ops.aten
Shape = tuple[int, ...]
HALF = (torch.float16, torch.bfloat16)
ROW = 16  # bytes that a CUDA kernel reads at a time


@dataclass(frozen=True)
class DenseKernel:
    """A forward and a backward of dense attention, and what they take; see the top of this file for both signatures.

    Args:
        name: The name that users give.
        forward: Gives output and log-sum-exp.
        backward: Gives the gradients of q, k and v.
        device: The only type of device; None means any.
        dtypes: The only dtypes; empty means any.
        most_channels: The largest head.
    """

    name: str
    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    device: str | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    most_channels: int | None = None

    def refusal(self, q: Tensor) -> str | None:
        """Why the kernel does not take tensors such as q, the end of a sentence; None if it does."""
        channels = q.shape[-1]
        if self.device not in (None, q.device.type):
            return f"runs on {self.device}, got tensors on {q.device.type}"
        if self.dtypes and q.dtype not in self.dtypes:
            return f"takes {' or '.join(map(_short, self.dtypes))}, got {_short(q.dtype)}"
        if self.most_channels is not None and channels > self.most_channels:
            return f"takes heads of at most {self.most_channels} channels, got {channels}"
        if self.device == "cuda" and channels * q.itemsize % ROW:
            return f"takes heads of a multiple of {ROW // q.itemsize} channels, got {channels}"
        return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """The type of log-sum-exps and sums: float64 for float64, otherwise float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=scale)


def _cpu_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    # in float32 whatever the inputs: torch's bfloat16 backward on the CPU took over ten times as long
    wide = (x.to(accumulation_dtype(x)) for x in (grad, q, k, v, out))
    grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(*wide, lse, 0.0, False, scale=scale)
    grad_q, grad_k, grad_v = (x.to(q.dtype) for x in grads)
    return grad_q, grad_k, grad_v


def _math_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(q)
    logits = (q.to(dtype) @ k.to(dtype).transpose(-1, -2)) * scale
    lse = torch.logsumexp(logits, dim=-1)
    return (torch.exp(logits - lse[..., None]) @ v.to(dtype)).to(q.dtype), lse


def _math_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(q)
    grad, queries, keys, values, out = (x.to(dtype) for x in (grad, q, k, v, out))
    weights = torch.exp((queries @ keys.transpose(-1, -2)) * scale - lse[..., None])
    row = (grad * out).sum(-1, keepdim=True)
    grad_logits = weights * (grad @ values.transpose(-1, -2) - row) * scale
    grads = (grad_logits @ keys, grad_logits.transpose(-1, -2) @ queries, weights.transpose(-1, -2) @ grad)
    grad_q, grad_k, grad_v = (x.to(q.dtype) for x in grads)
    return grad_q, grad_k, grad_v


def _flash_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[:2]


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of the dropout, which is 0
    offset = torch.empty(0, dtype=torch.uint64, device=q.device)
    lengths = q.shape[2], k.shape[2]
    return aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, lse.contiguous(), None, None, *lengths, 0.0, False, seed, offset, scale=scale
    )


def _efficient_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, _, _ = aten._scaled_dot_product_efficient_attention(
        q, k, v, None, True, 0.0, False, scale=scale
    )
    return out, lse[..., : q.shape[2]]  # the kernel pads it to a multiple of 32 with +inf


def _efficient_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    lse = F.pad(lse.contiguous(), (0, -q.shape[2] % 32), value=math.inf)
    zero = torch.zeros((), dtype=torch.int64, device=q.device)
    wanted = [True, True, True, False]
    return aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, None, out, lse, zero, zero, 0.0, wanted, False, scale=scale
    )[:3]


def _cudnn_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, False, False, scale=scale
    )
    return out, lse.reshape(q.shape[:-1])  # its last axis is 1


def _cudnn_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    zero = torch.zeros((), dtype=torch.int64, device=q.device)
    lse = lse.contiguous().unsqueeze(-1)
    lengths = q.shape[2], k.shape[2]
    return aten._scaled_dot_product_cudnn_attention_backward(
        grad, q, k, v, out, lse, zero, zero, None, None, None, *lengths, 0.0, False, scale=scale
    )


CPU = DenseKernel("cpu", _cpu_forward, _cpu_backward, "cpu")
MATH = DenseKernel("math", _math_forward, _math_backward)
FLASH = DenseKernel("flash", _flash_forward, _flash_backward, "cuda", HALF, 256)  # never run
EFFICIENT = DenseKernel(  # never run
    "efficient", _efficient_forward, _efficient_backward, "cuda", (*HALF, torch.float32)
)
CUDNN = DenseKernel("cudnn", _cudnn_forward, _cudnn_backward, "cuda", HALF, 128)  # never run


def _count_flops(
    q: Shape, k: Shape, v: Shape, *args: object, out_shape: object = None, **options: object
) -> int:
    return sdpa_flop_count(q, k, v)


def _count_backward_flops(
    grad: Shape, q: Shape, k: Shape, v: Shape, *args: object, out_shape: object = None, **options: object
) -> int:
    return sdpa_flop_count(q, k, v) * 5 // 2


# torch counts the CUDA kernels, but 0 for the CPU one: what a single view or time runs
for _operator, _formula in (
    (aten._scaled_dot_product_flash_attention_for_cpu, _count_flops),
    (aten._scaled_dot_product_flash_attention_for_cpu_backward, _count_backward_flops),
):
    if _operator not in flop_registry:
        register_flop_formula(_operator)(_formula)
