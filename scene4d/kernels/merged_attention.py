"""View-time attention as three dense attentions, merged exactly by inclusion and exclusion.

A token (v, t, s) attends to all tokens of its view or of its time (4Real-Video-V2, Eq. 1). With

    A: inside each view      (b v sequences of t s tokens)
    B: inside each timestep  (b t sequences of v s tokens)
    C: inside each frame     (b v t sequences of s tokens), which A and B both hold

the union softmax is `lse = log(e^lse_A + e^lse_B - e^lse_C)` and
`out = out_A e^(lse_A - lse) + out_B e^(lse_B - lse) - out_C e^(lse_C - lse)`. C is part of A and of B, so
after the shift by m = max(lse_A, lse_B) the argument lies in [1, 2]: nothing cancels.
The backward runs each dense backward with the global out and lse, adds A and B and subtracts C.
"""

from __future__ import annotations

from torch import Tensor

from scene4d.kernels.dense_attention import DenseKernel
from scene4d.kernels.merging import merge_gradients, merge_outputs
from scene4d.kernels.sequences import Gradients, Grid, split_frames, split_times, split_views

SPLITS = (
    split_times,
    split_views,
    split_frames,
)  # B first: its permuted copies die before all else is allocated


def merged_forward(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, scale: float, kernel: DenseKernel
) -> tuple[Tensor, Tensor]:
    """Attention output and its log-sum-exp.

    Args:
        q, k, v: `b l h d` with l = V T S, view-major; any strides.
        grid: (V, T, S).
        scale: Factor of the logits.
        kernel: Computes the three dense attentions.

    Returns:
        Output `b l h d` in the dtype of q, and lse `b l h` in float32 (float64 for float64); contiguous.
    """
    inputs = [_dense_last_axis(x) for x in (q, k, v)]
    parts = (kernel.forward(*(split(x, grid) for x in inputs), scale) for split in SPLITS)
    return merge_outputs(parts, q, grid)


def merged_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grid: Grid,
    scale: float,
    kernel: DenseKernel,
) -> Gradients:
    """Gradients of q, k and v, each `b l h d`, contiguous; arguments as given to and by `merged_forward`."""
    inputs = [_dense_last_axis(x) for x in (grad, q, k, v, out)]
    parts = (kernel.backward(*(split(x, grid) for x in inputs), split(lse, grid), scale) for split in SPLITS)
    return merge_gradients(parts, q, grid)


def _dense_last_axis(x: Tensor) -> Tensor:
    """The kernels step through channels one by one; an expanded gradient does not."""
    return x if x.stride(-1) == 1 else x.contiguous()
