"""Loading a model from a folder or hub id in diffusers' layout: whole, or not at all.

diffusers itself fills weights that a checkpoint lacks with random numbers, ignores those that it has too many, and
takes the config of any other class; it says so in its log at most.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open

from scene4d.networks.pretrained import refuse_meta_device
from scene4d.networks.weight_index import refuse_foreign_files

M = TypeVar("M", bound="DiffusersModel")


@runtime_checkable
class DiffusersModel(Protocol):
    """The part of diffusers' models that loads them."""

    @classmethod
    def load_config(cls, pretrained: str, *, subfolder: str) -> dict[str, Any]: ...

    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained: str,
        *,
        subfolder: str,
        torch_dtype: torch.dtype,
        use_safetensors: bool,
        output_loading_info: bool,
    ) -> tuple[M, dict[str, list[str]]]: ...


def load_diffusers_model(model_class: type[M], pretrained: str, subfolder: str, dtype: torch.dtype) -> M:
    """Loads a model of diffusers from safetensors files that fit it exactly.

    Args:
        model_class: The class that the checkpoint's config.json must name.
        pretrained: Local folder or hub id in diffusers' layout.
        subfolder: Folder of the model inside it.
        dtype: Type of the weights.

    Raises:
        ValueError: Files are missing or damaged (says which to put where), or belong to another class or
            architecture, or the default device is meta, on which nothing can be loaded.
    """
    what = f"cannot load {model_class.__name__} from {pretrained!r}"
    refuse_meta_device(what)
    try:
        config = model_class.load_config(pretrained, subfolder=subfolder)
    except OSError as error:
        raise ValueError(f"{what}: {_what_to_do(Path(pretrained), subfolder, error)}") from error
    _refuse_other_class(model_class, config, what)
    refuse_foreign_files(Path(pretrained) / subfolder, what)
    try:
        model, info = model_class.from_pretrained(
            pretrained, subfolder=subfolder, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"{what}: {_what_to_do(Path(pretrained), subfolder, error)}") from error
    except (RuntimeError, ValueError) as error:  # shapes
        raise ValueError(f"{what}: {_first_line(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:  # entries of other types than diffusers writes
        raise ValueError(
            f"{what}: its config.json or *.safetensors.index.json is damaged ({type(error).__name__}: "
            f"{_first_line(error)}); copy them again"
        ) from error
    for kind, problem in (("missing_keys", "lack"), ("unexpected_keys", "hold what config.json does not:")):
        if names := sorted(info[kind]):
            raise ValueError(
                f"{what}: weights of another architecture: they {problem} {names[0]!r} ({len(names)} in all)"
            )
    return model


def _refuse_other_class(model_class: type, config: dict[str, Any], what: str) -> None:
    if not isinstance(config, dict):
        raise ValueError(
            f"{what}: its config.json holds a {type(config).__name__}, expected settings by name"
        )
    found = config.get("_class_name")
    if found != model_class.__name__:
        hint = "; repositories of Wan in this layout end in -Diffusers" if found == "WanModel" else ""
        raise ValueError(f"{what}: its config.json is of {found}, expected {model_class.__name__}{hint}")


def _what_to_do(folder: Path, subfolder: str, error: OSError) -> str:
    """Which file is missing or damaged, and what belongs there."""
    place = folder / subfolder
    layout = "diffusers' layout has config.json and the *.safetensors files of this model there"
    if not folder.is_dir():
        return (
            "it is no local folder, and it cannot be had from the hub; without a network, download that "
            f"repository elsewhere, and give the local folder that holds {subfolder}/config.json and "
            f"{subfolder}/*.safetensors"
        )
    if not (place / "config.json").is_file():
        return f"there is no '{place / 'config.json'}'; {layout}"
    if not any(place.glob("*.safetensors")):
        return f"there are no *.safetensors files in '{place}'; {layout}"
    for path in sorted(place.glob("*.safetensors")):
        if reason := _damage(path):
            return f"'{path}' is damaged or cut short ({reason}); copy it again"
    return _first_line(error)


def _damage(path: Path) -> str:
    """Why a safetensors file cannot be opened; nothing if it can."""
    try:
        with safe_open(path, "pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    """An error without the advice of the library that raised it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(" If you want")[0]
