"""The tables: rows of every part, in JSON and Markdown, written after every row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from scene4d.atomic import write_json, write_text

Cell = str | float | int | None
Cells = dict[str, Cell]
UNFINISHED = "did not end"


@dataclass
class Table:
    """The rows of one part.

    Attributes:
        rows: By name; those that could not be measured have a cell `error`.
        left_out: Names of rows for which there was no time.
        seconds: How long the part took.
    """

    rows: dict[str, Cells] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Report:
    """The tables of all parts, on disk whenever a row begins or ends; what an earlier process measured is kept.

    Args:
        folder: Gets gpu.json and gpu.md.
        about: Card, versions and command.
    """

    def __init__(self, folder: Path, about: Cells) -> None:
        self.folder, self.about, self.tables = folder, about, dict[str, Table]()
        file = folder / "gpu.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))["parts"]
            self.tables = {name: Table(**table) for name, table in found.items()}

    def table(self, part: str) -> Table:
        """The table of a part."""
        return self.tables.setdefault(part, Table())

    def write(self) -> None:
        """Writes both files."""
        write_json(self.folder / "gpu.json", {"about": self.about, "parts": self.tables})
        write_text(self.folder / "gpu.md", self.markdown())

    def markdown(self) -> str:
        """All tables."""
        about = "\n".join(f"- {name}: {value}" for name, value in self.about.items())
        tables = [f"## {name}\n\n{markdown_of(table)}" for name, table in self.tables.items()]
        return "\n\n".join(["# Measured on one device", about, *tables]) + "\n"


def markdown_of(table: Table) -> str:
    """One table in Markdown, and what was left out."""
    columns = list(dict.fromkeys(column for row in table.rows.values() for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(shown(row.get(x)) for x in columns) + " |" for row in table.rows.values()]
    if table.left_out:
        lines += ["", f"Left out after {table.seconds:.0f} s: {'; '.join(table.left_out)}"]
    return "\n".join(lines)


def shown(cell: Cell) -> str:
    """A cell's text."""
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else str(cell).replace("|", "/")
