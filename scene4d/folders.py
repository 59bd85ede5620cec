"""Files and folders that people have, listed in the order in which people number them."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

NaturalKey = tuple[tuple[tuple[tuple[str, int], ...], ...], str]


def listed(folder: Path, patterns: Collection[str]) -> list[Path]:
    """Lists what lies directly in a folder, in natural order: `frame_7` comes before `frame_10`.

    Names that begin with a dot are left out, among them the `._NAME` files that macOS adds to copies and archives.

    Args:
        folder: Where to look; one that is missing holds nothing.
        patterns: Shell patterns (`cam*.mp4`) or suffixes (`.png`), upper or lower case; one of them must match.
    """
    if not folder.is_dir():
        return []
    wanted = [path for path in folder.iterdir() if not is_hidden(path, folder) and _matches(path, patterns)]
    return sorted(wanted, key=lambda path: natural_key(path.name))


def listed_below(folder: Path, patterns: Collection[str]) -> list[Path]:
    """Lists all that lies anywhere below a folder, as `listed` does; folders with a dot are not entered."""
    wanted = [path for path in folder.rglob("*") if not is_hidden(path, folder) and _matches(path, patterns)]
    return sorted(wanted, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def is_hidden(path: Path, root: Path) -> bool:
    """Tells whether a part of a path below `root` begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def natural_key(name: str) -> NaturalKey:
    """Returns a key that sorts paths part by part, and runs of digits in them by their value.

    The name itself comes last in the key, so that `a01` and `a1` always have the same order, too.
    """
    ends = (end for part in name.casefold().split("/") for end in _stem_and_suffix(part))
    return tuple(_alternating(end) for end in ends), name


def _stem_and_suffix(part: str) -> tuple[str, str]:
    """Splits a name at its last dot, so that `a.png` comes before `a1.png`."""
    stem, dot, suffix = part.rpartition(".")
    return (stem, suffix) if dot else (part, "")


def _alternating(text: str) -> tuple[tuple[str, int], ...]:
    """Splits `cam3b12` into (cam, 3), (b, 12), and so on; -1 stands where no digits follow."""
    return tuple((letters, int(digits or -1)) for letters, digits in re.findall(r"([^0-9]*)([0-9]*)", text))


def _matches(path: Path, patterns: Collection[str]) -> bool:
    name = path.name.casefold()
    shell = (f"*{pattern}" if pattern.startswith(".") else pattern for pattern in patterns)
    return any(fnmatchcase(name, pattern.casefold()) for pattern in shell)
