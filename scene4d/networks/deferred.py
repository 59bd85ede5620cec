"""Networks whose weights stay in their files until the network has been split over ranks.

A network that is built inside `deferred_weights` may leave the parameters of its pretrained base without values, on the
meta device, and say in which files they are. Every rank then reads its own rows, so that none ever holds the whole. So
does a network whose weights `initial_weights` will give: it makes those parts inside `given_by_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from scene4d.distributed.sharding import local, own_rows

Place = tuple[Path, str, torch.dtype]  # a file, a name in it, and the type that the value is rounded to

_DEFERRED = ContextVar("deferred_weights", default=False)
_INITIAL = ContextVar("initial_weights", default=False)


@contextmanager
def deferred_weights(wanted: bool = True, initial: bool = False) -> Iterator[None]:
    """Networks that are built inside may leave their pretrained weights in their files.

    Args:
        wanted: Whether they may.
        initial: Whether weight files will be loaded afterwards, which give all weights but the network's
            `optional_weights`; those may be left in the files, too.
    """
    tokens = _DEFERRED.set(wanted), _INITIAL.set(wanted and initial)
    try:
        yield
    finally:
        _DEFERRED.reset(tokens[0])
        _INITIAL.reset(tokens[1])


def given_by_files() -> AbstractContextManager[object]:
    """Parameters that are made inside have no values yet where `initial_weights` will give them.

    What is made inside must have no buffers, and its parameters must be none of the network's `optional_weights`.
    """
    return torch.device("meta") if _INITIAL.get() else nullcontext()


def weights_are_deferred() -> bool:
    """Whether a network that is built now may leave its pretrained weights in their files."""
    return _DEFERRED.get()


def allocate(network: nn.Module, device: torch.device) -> None:
    """Gives parameters on the meta device memory for the values that will be loaded, this rank's rows alone."""
    meta = {name: p for name, p in network.named_parameters() if p.is_meta}
    empty = {name: torch.empty_like(p, device=device) for name, p in meta.items()}
    network.load_state_dict(empty, strict=False, assign=True)


@torch.no_grad()
def fill(network: nn.Module, files: Mapping[str, Place], device: torch.device) -> None:
    """Gives parameters on the meta device memory, and the values of their files; buffers keep theirs.

    Args:
        network: May be split over ranks; each rank reads its own rows.
        files: Where the values of all parameters are, by name.
        device: Where the parameters go.
    """
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    network.to_empty(device=device)
    for name, value in network.named_buffers():
        value.copy_(buffers[name])
    with ExitStack() as stack:
        paths = sorted({path for path, _, _ in files.values()})
        opened = {path: stack.enter_context(safe_open(path, "pt")) for path in paths}
        for name, parameter in network.named_parameters():
            path, key, dtype = files[name]
            local(parameter).copy_(_own(parameter, opened[path], key).to(dtype))


def _own(parameter: Tensor, file: safe_open, key: str) -> Tensor:
    """The rows of a file's tensor that this rank keeps."""
    if not isinstance(parameter, DTensor):
        return file.get_tensor(key)
    begin, end = own_rows(len(parameter), parameter.device_mesh)
    return file.get_slice(key)[begin:end]
