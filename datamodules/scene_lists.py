"""Many scenes in one start: a CSV file with one scene per row, or a folder with one subfolder per scene."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from datamodules.reference_grid import ReferenceScene
from scene4d.folders import listed

VIDEOS = ("fixed_view", "freeze_time")
COLUMNS = ("key", *VIDEOS, "prompt")
HOLDS = "one subfolder per scene with fixed_view.*, freeze_time.*, prompt.txt or some of them"


def list_scenes(path: str | Path) -> list[ReferenceScene]:
    """The scenes of a CSV file or a folder, in their order; that all files exist is checked, none is decoded.

    A CSV file (UTF-8) names its columns in its first row: some of key, fixed_view, freeze_time, prompt. An empty cell
    says that there is no such thing. Relative paths begin in the folder of the file. A scene without a key is named
    after its row, `scene_0002` for the one below the header. A folder holds one subfolder per scene with
    `fixed_view.*`, `freeze_time.*` and `prompt.txt` or some of them; its name is the key, and natural order counts.

    Raises:
        ValueError: The list is missing, empty or not of this form, a key comes twice, a file does not exist, or a
            scene has neither a video nor a prompt; names the file and the row.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"scenes {str(path)!r} does not exist; expected a CSV file or a folder")
    found = list(_of_folder(path) if path.is_dir() else _of_table(path))
    rows: dict[str, str] = {}
    for where, scene in found:
        if scene.key in rows:
            raise ValueError(f"{where}: key {scene.key!r} is that of {rows[scene.key]}, too")
        rows[scene.key] = where
    return [scene for _, scene in found]


def _of_table(path: Path) -> Iterator[tuple[str, ReferenceScene]]:
    """The scenes of a CSV file, each with the place that messages name."""
    rows = _read_table(path)
    columns = [cell.strip() for cell in rows[0]] if rows else []
    if not columns or len(set(columns)) < len(columns) or not set(columns) <= set(COLUMNS):
        raise ValueError(
            f"{str(path)!r} has columns {', '.join(columns) or 'of no name'}; expected some of {', '.join(COLUMNS)}, "
            "each once, in the first row and with commas between them"
        )
    if not any(map(any, rows[1:])):
        raise ValueError(f"{str(path)!r} holds no scene below its header")
    for number, row in enumerate(rows[1:], 2):
        where = f"{str(path)!r} row {number}"
        if len(row) > len(columns):
            raise ValueError(
                f"{where} has {len(row)} cells for {len(columns)} columns; quote texts with commas"
            )
        if any(row):
            cells = {"key": f"scene_{number:04d}"} | {k: x for k, x in zip(columns, row) if x}
            yield where, _scene(where, path.parent, **cells)


def _read_table(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file, strict=True)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} is no CSV file in UTF-8: {error}") from error


def _of_folder(path: Path) -> Iterator[tuple[str, ReferenceScene]]:
    """The scenes of the subfolders, each with the place that messages name."""
    folders = [folder for folder in listed(path, ["*"]) if folder.is_dir()]
    if not folders:
        raise ValueError(f"folder {str(path)!r} holds no scene; expected {HOLDS}")
    for folder in folders:
        videos = {name: _only_video(folder, name) for name in VIDEOS}
        yield (
            repr(str(folder)),
            _scene(repr(str(folder)), folder, folder.name, **videos, prompt=_prompt(folder)),
        )


def _only_video(folder: Path, name: str) -> str:
    found = [path.name for path in listed(folder, [f"{name}.*"]) if path.is_file()]
    if len(found) > 1:
        raise ValueError(f"{str(folder)!r} holds {' and '.join(found)}, expected one of them")
    return found[0] if found else ""


def _prompt(folder: Path) -> str:
    path = folder / "prompt.txt"
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error}") from error


def _scene(
    where: str, root: Path, key: str, fixed_view: str = "", freeze_time: str = "", prompt: str = ""
) -> ReferenceScene:
    """A scene whose files exist; their paths begin in `root`."""
    for name, file in (("fixed_view", fixed_view), ("freeze_time", freeze_time)):
        if file and not (root / file).is_file():
            raise ValueError(f"{where}: {name} {str(root / file)!r} does not exist")
    fixed, freeze = (str(root / file) if file else None for file in (fixed_view, freeze_time))
    try:
        return ReferenceScene(key, fixed, freeze, prompt)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
