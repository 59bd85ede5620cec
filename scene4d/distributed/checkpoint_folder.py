"""Checkpoints that all ranks write together, and that any number of ranks can read.

    last.ckpt/
        state.ckpt                      everything that is not split, and the names of the files below
        8f2c-00000-of-00002.safetensors rank 0's rows of every tensor that is split
        8f2c-00001-of-00002.safetensors rank 1's

The state names the files that belong to it and takes the place of its predecessor when all of them are complete. A kill
leaves the old state with its files, or the new one with its own. Nothing is pickled but plain values and whole tensors.
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from scene4d.atomic import remove, replacing
from scene4d.distributed.agreement import from_all_ranks
from scene4d.distributed.sharding import from_rows, local, own_rows

STATE = "state.ckpt"
FILES, SHAPES = "shard_files", "shard_shapes"  # in a state: file names, and shapes of split tensors by name
SPLIT = "split_tensor"  # in the place of a split tensor: its name

POLL, PATIENCE = 0.05, 60.0  # seconds

Tree = Any  # plain values, lists, dictionaries and tensors


class Part:
    """One rank's part of a checkpoint, copied from its device, so that training may go on while it is written.

    Args:
        checkpoint: What Lightning saves; split tensors in it are DTensors on `mesh`. It is not changed.
        mesh: The ranks; those of the last dimension hold different rows.
        token: What makes the names of these files differ from those of other states; the same on all ranks.
    """

    def __init__(self, checkpoint: Mapping[str, Any], mesh: DeviceMesh, token: str) -> None:
        self.rows: dict[str, Tensor] = {}
        self.shapes: dict[str, list[int]] = {}
        self.tree = _map(checkpoint, "", partial(self._take, mesh))
        ranks, rank = mesh.size(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1)
        self.files = [f"{token}-{k:05}-of-{ranks:05}.safetensors" for k in range(ranks)]
        self.file = self.files[rank] if mesh.get_rank() < ranks else None  # others hold copies

    def _take(self, mesh: DeviceMesh, name: str, tensor: Tensor) -> Tree:
        if not isinstance(tensor, DTensor):
            return tensor.detach().to("cpu", copy=True)
        self.shapes[name] = list(tensor.shape)
        if len(rows := local(tensor)):
            self.rows[name] = rows.to("cpu", copy=True).contiguous()
        return {SPLIT: name}

    def write(self, folder: Path) -> None:
        """Writes this rank's file, if it holds rows that no other rank writes."""
        if self.file is None:
            return
        firsts = {name: str(_first(self.shapes[name][0], self.file)) for name in self.rows}
        with replacing(folder / self.file) as temporary:
            save_file(self.rows, temporary, metadata=firsts)

    def commit(self, folder: Path) -> None:
        """Makes the files that all ranks have written the checkpoint, and removes what else is there.

        That is the checkpoint before, and what ranks left that were killed while they wrote theirs.
        """
        state = {**self.tree, FILES: self.files, SHAPES: self.shapes}
        with replacing(folder / STATE) as temporary:
            torch.save(state, temporary)
        for path in (*folder.glob("*.safetensors"), *folder.glob(".*")):
            if path.name not in self.files:
                remove(path)

    def withdraw(self, folder: Path) -> None:
        """Removes this rank's file again, since the checkpoint could not be completed: the disk may be full."""
        if self.file is not None:
            with suppress(OSError):
                (folder / self.file).unlink(missing_ok=True)


def _first(count: int, file: str) -> int:
    """The first row of a rank's part of a tensor with `count` rows, by the name of its file."""
    rank, ranks = (int(x) for x in Path(file).stem.split("-")[-3::2])
    return min(rank * -(-count // ranks), count)


def write_folder(checkpoint: Mapping[str, Any], folder: Path, mesh: DeviceMesh) -> None:
    """Writes a checkpoint; every rank must call it, and all return when it is there.

    Raises:
        OSError: The disk is full or read-only; every rank raises what one of them met.
    """
    part = Part(checkpoint, mesh, new_token())
    try:
        agree(partial(part.write, folder))
        agree(partial(part.commit, folder) if mesh.get_rank() == 0 else lambda: None)
    except OSError:
        part.withdraw(folder)
        raise


class BackgroundSave:
    """Writes a checkpoint while training goes on; rank 0 completes it when the files of all ranks are there.

    Args:
        part: This rank's part.
        folder: The checkpoint.
        commits: Whether this rank completes it.
    """

    def __init__(self, part: Part, folder: Path, commits: bool) -> None:
        self._part, self._folder, self._commits = part, folder, commits
        self._error: OSError | None = None
        self._given_up = threading.Event()
        self._written = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint")  # the process ends after it
        self._thread.start()

    def finish(self) -> None:
        """Waits until the checkpoint is complete on all ranks; every rank must call it.

        Raises:
            OSError: A rank could not write; the checkpoint before stays.
        """
        self._written.wait()
        try:
            agree(self._raise)
            self._thread.join()
            agree(self._raise)
        except OSError:
            self._given_up.set()  # rank 0 would wait for a file that never comes
            self._thread.join()
            self._part.withdraw(self._folder)
            raise

    def _run(self) -> None:
        try:
            self._part.write(self._folder)
            self._written.set()
            if self._commits and self._all_written():
                self._part.commit(self._folder)
        except OSError as error:
            self._error = error
        finally:
            self._written.set()

    def _all_written(self) -> bool:
        """Waits for the files of the other ranks, also beyond the end of training, but then for a limited time."""
        ended = None
        while not all((self._folder / name).exists() for name in self._part.files):
            if self._given_up.wait(POLL):
                return False
            if not threading.main_thread().is_alive():
                ended = ended or time.monotonic()
                if time.monotonic() - ended > PATIENCE:
                    return False
        return True

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def new_token() -> str:
    """A few random letters, those of rank 0; every rank must call it."""
    return from_all_ranks(secrets.token_hex(4))[0]


def agree(work: Callable[[], None]) -> None:
    """Does a rank's own work and waits for the others'; if that of any rank fails, all of them raise its error.

    Raises:
        OSError: What the first of them met.
    """
    told: list[object] | None = None
    try:
        work()
    except OSError as error:
        told = [error.errno, error.strerror, error.filename]
    if first := next((x for x in from_all_ranks(told) if x is not None), None):
        raise OSError(*first)


def read_folder(folder: Path, mesh: DeviceMesh | None = None, tensors: bool = True) -> dict[str, Any]:
    """Reads a checkpoint that any number of ranks has written.

    Args:
        folder: The checkpoint.
        mesh: The ranks of this run, each of which reads its own rows, on their device; None reads whole tensors.
        tensors: Whether to read split tensors; otherwise they have shapes and no values, and files are only looked at.

    Raises:
        ValueError: A file is missing, damaged, or does not belong here; names it.
    """
    state = _read_state(folder)
    names, shapes = state.pop(FILES, None), state.pop(SHAPES, None)
    if not isinstance(names, list) or not isinstance(shapes, dict):
        raise ValueError(f"checkpoint {str(folder / STATE)!r} does not say which files belong to it")
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(folder, name)) for name in names]
        fetch = _Rows(folder, files, shapes, mesh) if tensors else partial(_shape_alone, shapes)
        return _filled(state, fetch)


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    if not path.is_file():
        raise ValueError(
            f"checkpoint {str(folder)!r} lacks {STATE}: it was never completed, or is another folder"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types
        reason = why_unreadable(error)
        raise ValueError(f"checkpoint {str(path)!r} is damaged or no checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {str(path)!r} holds a {type(content).__name__}, expected a dictionary")
    return content


def why_unreadable(error: Exception) -> str:
    """Why torch.load failed, in one line, without torch's advice to unpickle whatever is there."""
    if isinstance(error, KeyError | IndexError | EOFError | UnicodeDecodeError | struct.error):
        return "it is no file of PyTorch, or damaged"  # the unpickler stumbled over bytes that mean nothing
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not reason.startswith("Weights only load failed"):
        return reason
    return "it holds something other than plain values and tensors, and nothing else is ever unpickled"


def _opened(folder: Path, name: object) -> safe_open:
    path = folder / str(name)
    if path.parent != folder or not isinstance(name, str):
        raise ValueError(f"checkpoint {str(folder / STATE)!r} names {name!r}, which is no file beside it")
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        there = "is damaged or cut" if path.is_file() else "is missing"
        raise ValueError(f"checkpoint {str(folder)!r}: its file {name!r} {there} ({error})") from error


class _Rows:
    """Fetches tensors from the files of all ranks: whole, or this rank's rows."""

    def __init__(
        self, folder: Path, files: list[Any], shapes: dict[str, list[int]], mesh: DeviceMesh | None
    ) -> None:
        self.folder, self.shapes, self.mesh = folder, shapes, mesh
        self.files = [(file, file.metadata() or {}) for file in files]

    def __call__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise ValueError(f"checkpoint {str(self.folder / STATE)!r} does not say the shape of {name!r}")
        shape = torch.Size(self.shapes[name])
        begin, end = (0, shape[0]) if self.mesh is None else own_rows(shape[0], self.mesh)
        parts = []
        for file, firsts in self.files:
            if name not in firsts:
                continue
            rows, first = file.get_slice(name), int(firsts[name])
            low, high = max(begin - first, 0), min(end - first, rows.get_shape()[0])
            parts.append(rows[min(low, high) : high] if low < high else rows[0:0])
        found = torch.cat(parts) if parts else torch.empty(0)
        if found.shape != (end - begin, *shape[1:]):
            raise ValueError(
                f"checkpoint {str(self.folder)!r} lacks rows of {name!r}: its files do not belong together"
            )
        return found if self.mesh is None else from_rows(found.to(self.mesh.device_type), shape, self.mesh)


def _shape_alone(shapes: dict[str, list[int]], name: str) -> Tensor:
    return torch.empty(shapes[name], device="meta")


def _map(tree: Tree, name: str, take: Callable[[str, Tensor], Tree]) -> Tree:
    """A copy of nested lists and dictionaries with `take(name, tensor)` in the place of every tensor."""
    if isinstance(tree, Tensor):
        return take(name, tree)
    if isinstance(tree, Mapping):
        return {key: _map(value, f"{name}/{key}".lstrip("/"), take) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_map(value, f"{name}/{k}", take) for k, value in enumerate(tree))
    return tree


def _filled(tree: Tree, fetch: Callable[[str], Tensor]) -> Tree:
    """Undoes `_map`."""
    if isinstance(tree, dict):
        if tree.keys() == {SPLIT}:
            return fetch(tree[SPLIT])
        return {key: _filled(value, fetch) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_filled(value, fetch) for value in tree)
    return tree
