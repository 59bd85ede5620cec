"""Checkpoint files: written whole or not at all, read with errors that name the file, and the newest one of a run."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from scene4d.atomic import remove, replacing
from scene4d.distributed.checkpoint_folder import STATE, read_folder, why_unreadable

log = logging.getLogger(__name__)

LAST = "last*.ckpt"
ABANDONED = 600  # seconds since the last write to a temporary file whose writer was killed


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside a checkpoint and renames: a kill or a full disk leaves the one that was there.

    Lightning's own writing copies over the old file if the temporary folder is on another file system. Addresses
    such as s3:// are written by Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: The disk is full or read-only; names `path`.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads a checkpoint without unpickling anything but plain values and tensors.

        Raises:
            ValueError: There is none, or it is empty, cut, damaged or no checkpoint of Lightning; names the file.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=True)
        return read_checkpoint(Path(path), mapped=False)


def with_whole_checkpoints(given: object) -> list[object]:
    """The plugins of a trainer with `WholeCheckpoints`, unless one of them writes checkpoints."""
    listed = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]
    own = any(isinstance(plugin, CheckpointIO) for plugin in listed)
    return listed if own else [*listed, WholeCheckpoints()]


def read_checkpoint(path: Path, mapped: bool = True) -> dict[str, Any]:
    """Reads a checkpoint: a file, or the folder that many ranks have written.

    Args:
        path: The file or folder.
        mapped: Whether tensors stay on the disk, which makes this fast for the other values. Those of a folder that
            many ranks have written then have shapes alone.

    Raises:
        ValueError: There is none, or it is empty, cut, damaged or no checkpoint of Lightning; names the file.
    """
    if path.is_dir():
        return _of_lightning(read_folder(path, tensors=not mapped), path)
    if not path.is_file():
        where = "" if path.is_absolute() else f" (in the working directory {str(Path.cwd())!r})"
        raise ValueError(f"checkpoint {str(path)!r} does not exist{where}")
    if fault := _fault(path):
        raise ValueError(f"checkpoint {str(path)!r} {fault}")
    try:
        content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch.load raises a dozen types
        reason = why_unreadable(error)
        raise ValueError(f"checkpoint {str(path)!r} is damaged or no checkpoint: {reason}") from error
    return _of_lightning(content, path)


def _of_lightning(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise ValueError(
            f"checkpoint {str(path)!r} is not one that `fit` has written; weights alone belong into "
            "model.init_args.initial_weights"
        )
    return content


def _fault(path: Path) -> str | None:
    """What is wrong with a file that is not even an archive, as checkpoints are."""
    if path.suffix == ".safetensors":
        return "holds weights alone, which belong into model.init_args.initial_weights"
    if path.stat().st_size == 0:
        return "is empty"
    with path.open("rb") as file:
        begins = file.read(2) == b"PK"
    if begins and not zipfile.is_zipfile(path):
        return f"is cut: it ends after {path.stat().st_size} bytes"
    return None if begins else "is no checkpoint, or its content was lost"


def newest_checkpoint(folders: Sequence[Path]) -> Path | None:
    """The newest `last.ckpt` of a run; the newest other checkpoint that is whole if that one is broken.

    Args:
        folders: Where the run's checkpoints are.

    Raises:
        ValueError: There are checkpoints, and none of them can be read; names the newest.
    """
    found = {p for folder in folders for p in folder.glob("*.ckpt") if _was_completed(p)}
    last = sorted((p for p in found if p.match(LAST)), key=_age)
    others = sorted(found - {*last}, key=_age)
    broken: list[str] = []
    for path in (*last, *others):
        try:
            read_checkpoint(path)
        except ValueError as error:
            broken.append(str(error))
            continue
        if broken:
            log.info("%s; %s takes its place", broken[0], path)
        return path
    if broken:
        raise ValueError(f"--ckpt_path last: {broken[0]}; no other checkpoint beside it can be read")
    return None


def _was_completed(path: Path) -> bool:
    """Not so a folder whose first checkpoint was cut off: it has no state yet."""
    return not path.is_dir() or (path / STATE).exists()


def _age(path: Path) -> float:
    state = path / STATE  # a folder itself changes when a file is added that no checkpoint uses yet
    return -(state if state.is_file() else path).stat().st_mtime


def own_path(folder: Path, resumed: str | Path | None, of_many_ranks: bool = False) -> Path:
    """The path that a run keeps: the one that it goes on from, or one whose name no other run has taken.

    Temporary files in the folder that nobody has written to for ten minutes are removed. A run that goes on from a
    file and writes folders, or the other way round, keeps both.

    Args:
        folder: The folder of the checkpoints.
        resumed: The checkpoint that the run goes on from, if there is one.
        of_many_ranks: Whether the run's checkpoints are folders that many ranks write.
    """
    for left in (*folder.glob(".*.ckpt.*.tmp"), *folder.glob("*.ckpt/.*.tmp")):
        if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > ABANDONED:
            remove(left)
    if resumed and Path(resumed).absolute().parent == folder and Path(resumed).match(LAST):
        if Path(resumed).is_dir() == of_many_ranks:
            return Path(resumed).absolute()
    path, version = folder / "last.ckpt", 0
    while _is_taken(path, of_many_ranks):
        version += 1
        path = folder / f"last-v{version}.ckpt"
    if version and not resumed:
        log.info("%s holds the checkpoint of another run: this one writes %s", folder, path.name)
    return path


def _is_taken(path: Path, of_many_ranks: bool) -> bool:
    """Whether a checkpoint is there that somebody may need: a broken one helps nobody."""
    if not path.exists():
        return False
    if path.is_dir() != of_many_ranks:
        return True
    try:
        read_checkpoint(path)
    except ValueError:
        return False
    return True
