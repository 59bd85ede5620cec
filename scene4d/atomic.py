"""Files are written beside their place and renamed when they are complete: what is there is whole."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path

Json = dict[str, object] | list[object] | str | float | int | bool | None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the path of a temporary file, which takes the place of `path` at the end.

    It lies in a hidden folder beside `path`, with whatever else a library writes there on its way (safetensors does).
    The folder of `path` is made. If the block raises, the temporary file is removed and `path` stays as it was. The
    file is on the disk before it takes its place, so that a power cut leaves the old file or the new one. It gets
    the permissions that the umask allows, whatever the library that writes it asks for.

    Args:
        path: The finished file.

    Raises:
        OSError: The disk is full or read-only, or another reason of the system; names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    folder = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    temporary = folder / path.name
    try:
        folder.mkdir(exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        _reach_the_disk(temporary)
        os.replace(temporary, path)
    except Exception as error:
        if (reason := _of_the_system(error, temporary)) is None:
            raise
        raise OSError(reason.errno, os.strerror(reason.errno or 0), str(path)) from error
    finally:
        remove(folder)


def remove_leftovers(path: Path) -> None:
    """Removes what processes of this machine left of a file when they were killed while they wrote it."""
    start = f".{path.name}.{platform.node()}."
    for name in os.listdir(path.parent):
        process = name.removeprefix(start).removesuffix(".tmp")
        if name.startswith(start) and process.isdigit() and not _alive(int(process)):
            remove(path.parent / name)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all it holds, if it is there and the disk lets it."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _reach_the_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _of_the_system(error: Exception, temporary: Path) -> OSError | None:
    """Why writing failed. Libraries hide it in errors of their own, so a few more bytes are tried."""
    if isinstance(error, OSError):
        ours = ("None", str(temporary), str(temporary.parent))
        return error if error.errno and str(error.filename) in ours else None
    if not temporary.exists() or isinstance(error, (ValueError, TypeError)):
        return None
    try:
        with temporary.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as reason:
        return reason
    return None


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, which takes its place at the end; `replacing` for folders.

    If the block raises, the temporary folder is removed and `path` stays as it was.

    Args:
        path: The finished folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    start = f".{path.name}.{platform.node()}.{os.getpid()}"
    temporary, old = (path.with_name(f"{start}.{end}") for end in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: object) -> None:
    """Writes JSON, whole or not at all; NaN and infinity become null, tensors numbers, dataclasses dictionaries.

    Raises:
        ValueError: Something is no number, text, list, dictionary, tensor or array.
    """
    write_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def plain(value: object) -> Json:
    """Numbers, texts, lists and dictionaries that JSON knows."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"cannot write {type(value).__name__} {value!r} as JSON")
