"""What a checkpoint of Lightning holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def checkpoint_averages(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged parameters that a callback has saved in a checkpoint, by name; none if there are none."""
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and state.get("averages"):
            return state["averages"]
    return {}


def checkpoint_tensors(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Weights, averages and what the optimizers keep, by a name that tells them apart."""
    tensors = dict(checkpoint["state_dict"])
    tensors |= {f"average of {name}": value for name, value in checkpoint_averages(checkpoint).items()}
    for state in checkpoint.get("optimizer_states", []):
        for number, kept in state.get("state", {}).items():
            tensors |= {f"{key} of parameter {number}": x for key, x in kept.items() if isinstance(x, Tensor)}
    return tensors
