"""The index of weights that lie in several files, which libraries follow wherever it leads."""

from __future__ import annotations

import json
from pathlib import Path


def refuse_foreign_files(folder: Path, what: str) -> None:
    """Checks that every `*.safetensors.index.json` of a folder names safetensors files of that folder alone.

    diffusers and transformers join its names to the folder's path, and open by torch.load what ends otherwise.

    Args:
        folder: A local folder; one that is missing holds no index.
        what: What cannot be loaded; the message begins with it.

    Raises:
        ValueError: An index names another file; names both.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        for name in sorted(_names(index)):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(
                    f"{what}: '{index}' names {name!r}, which is not a *.safetensors file of its own folder"
                )


def _names(index: Path) -> set[str]:
    """All files that an index names; none if it is damaged, of which the libraries will complain."""
    try:
        return {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
