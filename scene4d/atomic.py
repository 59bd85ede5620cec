"""Files are written beside their place and renamed when they are complete: what is there is whole."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

Json = dict[str, object] | list[object] | str | float | int | bool | None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the path of a temporary file in the folder of `path`, which takes the place of `path` at the end.

    The folder is made. If the block raises, the temporary file is removed and `path` stays as it was. The file
    gets the permissions that the umask allows, whatever the library that writes it asks for.

    Args:
        path: The finished file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, which takes its place at the end; `replacing` for folders.

    If the block raises, the temporary folder is removed and `path` stays as it was.

    Args:
        path: The finished folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
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
