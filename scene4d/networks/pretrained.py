"""Loading weights by path or hub id, strictly, with errors that say which file to put where."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Loads a safetensors file into a module, strictly.

    Raises:
        ValueError: The file is missing, is no safetensors file, or belongs to another architecture;
            names the file and the first key that differs, with both shapes.
    """
    load_weights_in_order(module, [str(path)])


def read_weights(path: str | Path) -> dict:
    """Reads a safetensors file; floating-point tensors become float32.

    Raises:
        ValueError: The file is missing or is no safetensors file; names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"weights file {str(path)!r} does not exist; put a safetensors file there or change the path"
        )
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own Rust types
        raise ValueError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def explain_mismatch(own: dict, loaded: dict, name: str) -> None:
    """Raises ValueError that names the first key whose presence or shape differs."""
    for key, value in own.items():
        if key not in loaded:
            raise ValueError(
                f"{name} has no {key!r} ({tuple(value.shape)}): a checkpoint of another architecture"
            )
        if loaded[key].shape != value.shape:
            found, expected = tuple(loaded[key].shape), tuple(value.shape)
            raise ValueError(f"{name}: {key!r} is {found}, this network expects {expected}")
    for key in loaded:
        if key not in own:
            raise ValueError(f"{name} has {key!r}, which this network does not have: another architecture")


def read_header(path: str | Path) -> dict[str, str]:
    """The metadata that was written with a safetensors file."""
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def from_pretrained(model_class: type, pretrained: str, subfolder: str, dtype: torch.dtype) -> nn.Module:
    """`model_class.from_pretrained`, offline-safe.

    Raises:
        ValueError: Neither a local folder nor reachable on the hub; says which files to put where.
    """
    try:
        return model_class.from_pretrained(pretrained, subfolder=subfolder, torch_dtype=dtype)  # type: ignore[attr-defined]
    except OSError as error:
        raise ValueError(
            f"cannot load {model_class.__name__} from {pretrained!r}: {str(error).splitlines()[0]} "
            f"Without a network, download that repository elsewhere and put config.json and the *.safetensors "
            f"files into a folder {subfolder!r} below a local folder, then give that folder's path instead."
        ) from error


def load_weights_in_order(module: nn.Module, paths: list[str]) -> None:
    """Loads several safetensors files, later ones over earlier ones; together they must cover the module.

    Raises:
        ValueError: As `load_weights`; a file may hold a part of the keys, but none that the module has not.
    """
    merged: dict = {}
    for path in paths:
        merged |= read_weights(path)
    explain_mismatch(module.state_dict(), merged, ", ".join(paths))
    module.load_state_dict(merged)
