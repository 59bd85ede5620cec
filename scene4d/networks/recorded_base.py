"""What a checkpoint says of the frozen weights that it leaves out: where they came from, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from scene4d.distributed.checkpoint_folder import STATE, read_folder
from scene4d.distributed.sharding import gather

KEY = "frozen_base"  # in a checkpoint
PROBED = 64  # values of every tensor that a fingerprint reads


def frozen_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that depend on names, shapes and 64 evenly spaced values of every tensor.

    Values are rounded to bfloat16, so that the same weights are the same base in float32 and in bfloat16. A tensor
    that is split over ranks is gathered, one at a time; every rank must call it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = (tensor if type(tensor) in (Tensor, torch.nn.Parameter) else gather(tensor)).detach().flatten()
        probe = flat[:: max(1, flat.numel() // PROBED)][:PROBED].to("cpu", torch.bfloat16).contiguous()
        digest.update(probe.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def described(record: Mapping[str, Any]) -> str:
    """The base of a record in words: its paths or hub ids as configured, and its fingerprint."""
    return f"{' + '.join(record['files']) or 'unnamed weights'} ({record['fingerprint']})"


def is_there(path: Path) -> bool:
    """Whether a path is a file, or the folder that many ranks have written as a checkpoint."""
    return path.is_file() or (path / STATE).is_file()


def read_content(path: Path, values: bool = True) -> Any:
    """Reads a PyTorch file or the checkpoint of many ranks, a folder, without unpickling anything but plain values.

    Args:
        path: The file or folder.
        values: Whether tensors have values; otherwise those of a checkpoint of many ranks have shapes alone.
    """
    if path.is_dir():
        return read_folder(path, tensors=values)
    mapped = is_zipfile(
        path
    )  # values stay on the disk until they are used; files of old versions cannot do that
    return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def recorded_bases(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The records of those weight files that are checkpoints without their base."""
    records = []
    for path in paths:
        if is_there(Path(path)) and Path(path).suffix != ".safetensors":
            try:
                content = read_content(Path(path), values=False)
            except Exception:  # a dozen types
                continue  # `read_weights` will say what is wrong
            if isinstance(content, dict) and KEY in content:
                records.append(content[KEY])
    return records


def refuse_missing_base(missing: Iterable[str], paths: Sequence[str]) -> None:
    """Checks that no weights are missing which a checkpoint among the files has left out.

    Raises:
        ValueError: Some are; names the first and the base that the checkpoint records.
    """
    missing = list(missing)
    for record in recorded_bases(paths) if missing else []:
        left = {name.removeprefix("network.") for name in record["names"]}
        if found := [name for name in missing if name in left]:
            raise ValueError(
                f"{' + '.join(paths)}: {found[0]!r} is missing ({len(found)} tensors), since the checkpoint belongs "
                f"on the base {described(record)}; put the files of that base before it"
            )
