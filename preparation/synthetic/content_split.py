"""Content is held out: assets that share something with a held-out one never appear in training scenes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path

LARGEST_HELD_OUT_SHARE = 0.1


def family(stem: str) -> str:
    """Drops the number and letter of a variant from a name: `lamp3` -> `lamp`, `rock2a` -> `rock`."""
    return re.sub(r"[\s_\-]*\d+[a-zA-Z]?$", "", stem) or stem


def content_hash(path: Path) -> str:
    """Returns a name for the bytes of a file."""
    return hashlib.sha1(path.read_bytes()).hexdigest()[:16]


def content_groups(traits: Mapping[str, Set[str]]) -> dict[str, str]:
    """Puts assets together that share a trait (texture, mesh, family name), directly or through others.

    Args:
        traits: The traits of every asset.

    Returns:
        The group of every asset, named after its alphabetically first member.
    """
    parent = {name: name for name in traits}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first_with: dict[str, str] = {}
    for name in sorted(traits):
        for trait in traits[name]:
            low, high = sorted((root(first_with.setdefault(trait, name)), root(name)))
            parent[high] = low
    return {name: root(name) for name in traits}


def held_out_groups(groups: Mapping[str, str], share: float = 0.125) -> set[str]:
    """Chooses the groups of the validation split, the same ones for the same assets.

    Groups with more than a tenth of all assets (and more than two) always train.

    Args:
        groups: Group of every asset.
        share: Smallest share of all assets that is held out.

    Raises:
        ValueError: There are fewer than two groups, or all are too large, so that nothing can be held out.
    """
    sizes = Counter(groups.values())
    limit = max(2.0, LARGEST_HELD_OUT_SHARE * len(groups))
    candidates = sorted((name for name, size in sizes.items() if size <= limit), key=_shuffled)
    if len(sizes) < 2 or not candidates:
        names = ", ".join(sorted(groups)[:3]) + (", ..." if len(groups) > 3 else "")
        raise ValueError(
            f"{len(groups)} assets ({names}) form {len(sizes)} content groups, and what is held out must be of another "
            f"group than what trains: at least 2 groups are needed, one of them of at most {limit:.0f} assets"
        )
    chosen: set[str] = set()
    for name in candidates:
        if sum(sizes[k] for k in chosen) >= share * len(groups):
            break
        chosen.add(name)
    return chosen


def select_split(groups: Mapping[str, str], split: str, share: float = 0.125) -> list[str]:
    """Returns the sorted names of the assets of one split.

    Args:
        groups: Group of every asset.
        split: `train` or `val`.
        share: See `held_out_groups`.

    Raises:
        ValueError: The split has another name.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    held_out = held_out_groups(groups, share)
    return sorted(name for name, group in groups.items() if (group in held_out) == (split == "val"))


def _shuffled(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()
