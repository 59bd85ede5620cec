"""Where weight files are: on this machine, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from scene4d.networks.recorded_base import is_there

IN_REPOSITORY = ("model.safetensors", "model.pt")  # VGGT-1B has both
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def weight_file(given: str | Path) -> Path:
    """The file, or the checkpoint folder of many ranks, that an entry of `initial_weights` means.

    Args:
        given: A file; a checkpoint of many ranks; a folder with model.safetensors or model.pt, as the hub has them; or
            a hub id, for example facebook/VGGT-1B, whose file is downloaded unless it is in the hub's cache.

    Raises:
        ValueError: There is none; says what belongs where.
    """
    path = Path(given)
    if is_there(path):
        return path
    if path.is_dir():
        for name in IN_REPOSITORY:
            if (path / name).is_file():
                return path / name
        raise ValueError(f"weights folder {str(given)!r} holds neither {' nor '.join(IN_REPOSITORY)}")
    if HUB_ID.fullmatch(str(given)) and path.suffix not in FILES:
        return _from_hub(str(given))
    where = "" if path.is_absolute() else f" in the working directory {str(Path.cwd())!r}"
    raise ValueError(
        f"weights file {str(path)!r} does not exist{where}; put a .safetensors or .pt file there, or change "
        "the path (VGGT-1B is model.safetensors of huggingface.co/facebook/VGGT-1B)"
    )


def _from_hub(repository: str) -> Path:
    reasons = []
    for name in IN_REPOSITORY:
        try:
            return Path(hf_hub_download(repository, name))
        except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            reasons.append((str(error).strip() or type(error).__name__).splitlines()[0])
    example = Path.cwd() / "weights" / repository.split("/")[1]
    raise ValueError(
        f"weights {repository!r}: there is no such file or folder here, and the hub does not give it ({reasons[0]}); "
        f"without a network, download {IN_REPOSITORY[0]} of huggingface.co/{repository} elsewhere, put it into a "
        f"folder here, for example {str(example)!r}, and give that folder instead"
    )
