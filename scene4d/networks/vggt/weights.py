"""Loading released or own weights, strictly, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

VGGT_UNUSED = ("track_head.", "point_head.")
ADDED_TO_VGGT = ("aggregator.temporal", "aggregator.matcher.", "gaussian_head.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a `.safetensors` or PyTorch file without unpickling anything but tensors.

    Raises:
        ValueError: The file is missing or holds no tensors; says which file belongs where.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no weights at {path}: put a .safetensors or .pt file there (VGGT-1B is model.safetensors or "
            "model.pt of huggingface.co/facebook/VGGT-1B), or set initial_weights to null"
        )
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    content = (
        content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else content
    )
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no dictionary of tensors")
    return content


def load_weights(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    unused: Sequence[str] = VGGT_UNUSED,
    optional: Sequence[str] = ADDED_TO_VGGT,
    name: str = "weights",
) -> list[str]:
    """Copies weights into a network; every name and shape must agree.

    Args:
        network: Takes the weights, converted to its own precision.
        weights: State dict.
        unused: Prefixes of weights that are dropped if the network has no such part.
        optional: Prefixes of parameters that may keep their initial values.
        name: What to call the weights in errors.

    Returns:
        Names that kept their initial values.

    Raises:
        ValueError: Another architecture; names the first mismatch and both shapes.
    """
    own = network.state_dict()
    dropped = tuple(prefix for prefix in unused if not any(key.startswith(prefix) for key in own))
    given = {key: value for key, value in weights.items() if not key.startswith(dropped)}
    for key in [*given, *own]:
        if key not in given and key.startswith(tuple(optional)):
            continue
        here = tuple(own[key].shape) if key in own else None
        there = tuple(given[key].shape) if key in given else None
        if here != there:
            raise ValueError(
                f"{name} are of another architecture: {key!r} is {_shape(there)} there and {_shape(here)} "
                "in the network; compare the network's settings in the config"
            )
    network.load_state_dict(given, strict=False)
    return [key for key in own if key not in given]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
