"""Loading weights by path or hub id, strictly, with errors that say which file to put where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from scene4d.distributed.checkpoint_folder import why_unreadable
from scene4d.distributed.sharding import gather, scatter, total_norm
from scene4d.networks.contracts import Module, TrainedNetwork
from scene4d.networks.eight_bits import from_eight_bits
from scene4d.networks.recorded_base import read_content, refuse_missing_base
from scene4d.networks.weight_files import weight_file
from scene4d.networks.weight_index import refuse_foreign_files

P = TypeVar("P", bound="Pretrained")


def load_initial_weights(network: TrainedNetwork, paths: str | Path | Sequence[str]) -> list[str]:
    """Loads weight files into a network, which knows what they may leave out or hold too much.

    Returns and raises what `load_weights` does.
    """
    return load_weights(network, paths, network.unused_weights, network.optional_weights)


def load_weights(
    module: Module,
    paths: str | Path | Sequence[str],
    unused: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> list[str]:
    """Loads weight files into a module, later ones over earlier ones; names and shapes must agree.

    Args:
        module: Takes the weights, converted to its own precision.
        paths: One or several files, folders or hub ids, see `weight_file`; each may hold a part, together they must
            cover the module. Of a parameter that is split over ranks a rank reads its own rows alone.
        unused: Prefixes of weights that are dropped if the module has no such part.
        optional: Prefixes of parameters that may keep their initial values.

    Returns:
        Names that kept their initial values.

    Raises:
        ValueError: A file is missing, unreadable or holds NaN, or belongs to another architecture; names the file
            and the first key that differs, with both shapes. Or the module is on the meta device.
    """
    paths = [str(paths)] if isinstance(paths, (str, Path)) else list(paths)
    _refuse_meta_module(module, paths)
    own = module.state_dict()
    dropped = tuple(prefix for prefix in unused if not any(key.startswith(prefix) for key in own))
    given: dict[str, Tensor] = {}
    for path in paths:
        whole = {key: x for key, x in read_weights(path).items() if not key.startswith(dropped)}
        weights = {key: _own_rows(x, own.get(key)) for key, x in whole.items()}
        refuse_non_finite(weights, f"weights file {path!r} is spoilt")
        given |= weights
    kept = [key for key in own if key not in given and key.startswith(tuple(optional))]
    refuse_missing_base([key for key in own if key not in given and key not in kept], paths)
    _explain_mismatch({k: v for k, v in own.items() if k not in kept}, given, " + ".join(paths))
    module.load_state_dict(given, strict=False)
    return kept


def _own_rows(whole: Tensor, like: Tensor | None) -> Tensor:
    """A tensor of a file, split as the module's is: what other ranks keep is never read from the disk."""
    if isinstance(like, DTensor) and like.shape == whole.shape:
        return scatter(whole, like)
    return whole


def _refuse_meta_module(module: Module, paths: Sequence[str]) -> None:
    """Checks that a module can take weights: one on the meta device would take none in silence."""
    meta = [name for name, value in module.state_dict().items() if value.is_meta]
    if meta:
        raise ValueError(
            f"{' + '.join(paths)}: weights cannot be loaded into a network on the meta device ({len(meta)} tensors, "
            f"the first is {meta[0]!r}); build it on the CPU, or call to_empty() first"
        )


def refuse_meta_device(what: str) -> None:
    """Checks that the default device can hold weights.

    Args:
        what: What cannot be done otherwise; the message begins with it.

    Raises:
        ValueError: It is meta.
    """
    if torch.empty(0).is_meta:
        raise ValueError(
            f"{what}: the default device is meta, which holds no weights; on it, build the network with "
            "pretrained null and the sizes of its config.json"
        )


def refuse_non_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Checks weights that are about to be saved or used: one that is NaN or infinite spoils every result in silence.

    Every rank must call it if tensors are split over ranks, and all raise together.

    Args:
        weights: Tensors by name.
        what: What the weights belong to; the message begins with it.

    Raises:
        ValueError: A tensor holds NaN or infinity; names the first and counts all.
    """
    real = [value for value in weights.values() if value.is_floating_point()]
    if not real or bool(total_norm(real).isfinite()):  # ten times as fast as looking at every number
        return
    broken = [name for name, value in weights.items() if not bool(gather(value).isfinite().all())]
    if broken:  # otherwise the norm alone was too large
        counted = f"{len(broken)} of {len(weights)} tensors hold NaN or infinity"
        raise ValueError(f"{what}: {counted}, the first is {broken[0]!r}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a `.safetensors` or PyTorch file without unpickling anything but tensors.

    Their values stay on the disk until they are used, but for files in 8 bits and checkpoints of many ranks.

    Of a checkpoint of a training, a file or the folder of many ranks, it takes the weights of `network`, averaged where
    the checkpoint has averages.

    Raises:
        ValueError: The file is missing, unreadable, or holds no tensors; says what belongs there.
    """
    path = weight_file(path)
    try:
        if path.suffix == ".safetensors":
            return from_eight_bits(load_file(path))
        content = read_content(path)
    except Exception as error:  # safetensors raises its own Rust types, torch.load a dozen
        raise ValueError(f"weights file {str(path)!r} cannot be read: {why_unreadable(error)}") from error
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        content = network_weights(content)
    if isinstance(content, dict):
        content = content.get("state_dict", content.get("model", content))
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"weights file {str(path)!r} holds no dictionary of tensors by name")
    return content


def refuse_missing(paths: Sequence[str]) -> None:
    """Finds weight files, which downloads those that are named by a hub id.

    Raises:
        ValueError: One is missing; says what belongs there.
    """
    for path in paths:
        weight_file(path)


def checkpoint_averages(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged parameters that a callback has saved in a checkpoint, by name; none if there are none."""
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and state.get("averages"):
            return state["averages"]
    return {}


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a LightningModule's `network` in a checkpoint, averaged where it has averages."""
    weights = checkpoint["state_dict"] | checkpoint_averages(checkpoint)
    start = "network."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


@runtime_checkable
class Pretrained(Protocol):
    """The part of transformers' models and tokenizers that loads them."""

    @classmethod
    def from_pretrained(
        cls: type[P],
        pretrained: str,
        *,
        subfolder: str,
        torch_dtype: torch.dtype,
        use_safetensors: bool,
        trust_remote_code: bool,
        output_loading_info: bool,
    ) -> P | tuple[P, dict[str, Any]]: ...


def from_pretrained(model_class: type[P], pretrained: str, subfolder: str, dtype: torch.dtype) -> P:
    """Calls `model_class.from_pretrained` of transformers; `load_diffusers_model` is for models of diffusers.

    Raises:
        ValueError: `pretrained` is neither a local folder nor reachable on the hub (says which files to put where),
            weights are missing, which transformers would make up, or the default device is meta.
    """
    what = f"cannot load {model_class.__name__} from {pretrained!r}"
    refuse_meta_device(what)
    refuse_foreign_files(Path(pretrained) / subfolder, what)
    try:  # no pickles, and no code that lies beside the files
        loaded = model_class.from_pretrained(
            pretrained, subfolder=subfolder, torch_dtype=dtype, use_safetensors=True, trust_remote_code=False,
            output_loading_info=issubclass(model_class, torch.nn.Module),
        )  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{what}: {str(error).splitlines()[0]} "
            f"Without a network, download that repository elsewhere and put config.json and the *.safetensors "
            f"files into a folder {subfolder!r} below a local folder, then give that folder's path instead."
        ) from error
    if not isinstance(loaded, tuple):  # a tokenizer
        return loaded
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{what}: its weights lack {missing[0]!r} ({len(missing)} in all)")
    return model


def _explain_mismatch(own: dict[str, Tensor], given: dict[str, Tensor], name: str) -> None:
    """Raises ValueError that names the first key whose presence or shape differs."""
    for key in [*own, *given]:
        here, there = (str(list(x[key].shape)) if key in x else "absent" for x in (own, given))
        if here != there:
            raise ValueError(
                f"{name}: weights of another architecture: {key!r} is {there} there and {here} in the network; "
                "compare the network's settings in the config"
            )
