"""What a checkpoint of Lightning holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scene4d.networks.pretrained import checkpoint_averages


def checkpoint_tensors(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Weights, averages and what the optimizers keep, by a name that tells them apart."""
    tensors = dict(checkpoint["state_dict"])
    tensors |= {f"average of {name}": value for name, value in checkpoint_averages(checkpoint).items()}
    for state in checkpoint.get("optimizer_states", []):
        for number, kept in state.get("state", {}).items():
            tensors |= {f"{key} of parameter {number}": x for key, x in kept.items() if isinstance(x, Tensor)}
    return tensors
