"""The embedding of the empty prompt as a file: the null condition of a network whose base was trained with it.

`python -m preparation.captions` writes it beside the shards, so that training and guidance need no text encoder.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scene4d.atomic import replacing

NULL_TEXT = "null_text.safetensors"


def write_null_text(path: str | Path, text: Float[Tensor, "l d"], encoder: str) -> None:
    """Writes the embedding of the empty prompt, whole or not at all.

    Args:
        path: The file.
        text: The embedding without padding.
        encoder: Fingerprint of the text encoder that made it.
    """
    with replacing(path) as temporary:
        save_file({"text": text.float().contiguous()}, temporary, {"encoder": encoder})


def read_null_text(path: str | Path) -> tuple[Float[Tensor, "l d"], str]:
    """Returns the embedding of the empty prompt, float32, and the fingerprint of its text encoder.

    Raises:
        ValueError: The file is missing, damaged, or does not hold the two; names it and says what writes it.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"null text {str(path)!r} does not exist; python -m preparation.captions writes {NULL_TEXT} into the "
            "--output of its shards"
        )
    try:
        with safe_open(str(path), "pt") as file:
            encoder = (file.metadata() or {}).get("encoder", "")
            text = file.get_tensor("text") if "text" in file.keys() else None
    except Exception as error:  # safetensors raises its own Rust types
        reason = " ".join(str(error).split())
        raise ValueError(f"null text {str(path)!r} cannot be read: {reason}") from error
    if text is None or text.ndim != 2 or not text.numel() or not bool(torch.isfinite(text).all()):
        found = "no tensor 'text'" if text is None else f"a 'text' {tuple(text.shape)}"
        raise ValueError(f"null text {str(path)!r} holds {found}, expected finite numbers l d named 'text'")
    if not encoder:
        raise ValueError(
            f"null text {str(path)!r} does not say which text encoder made it, as preparation.captions does"
        )
    return text.float(), encoder
