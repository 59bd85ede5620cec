"""Captions as the diffusion network gets them, and what it gets in the place of a caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from scene4d.networks.null_text import read_null_text
from scene4d.networks.text import TextEncoder
from scene4d.types import SceneBatch

Text = Float[Tensor, "b l d"]


@dataclass
class Captions:
    """Embeds prompts, and gives samples without a caption the null condition.

    Training reads embeddings from the shards and needs no encoder. Prompts of `predict` are embedded by `encoder`,
    which must be the one that made the embeddings of the training.

    Args:
        encoder: Builds the text encoder, for example `scene4d.networks.text.Umt5Encoder`. It is built when the first
            prompt comes. None refuses prompts.
        null_text: The condition of a sample without a caption: "zeros", "encode" for the empty prompt as `encoder`
            embeds it, or a file with the latter, which `python -m preparation.captions` writes. Public Wan
            checkpoints were trained with the encoded empty prompt, and the file spares training the encoder.
        dropout: Probability that a sample is trained without its caption, which guidance needs.

    Raises:
        ValueError: `null_text` is "encode" without an encoder, or `dropout` is no probability.
    """

    encoder: Callable[[], nn.Module] | None = None
    null_text: str = "zeros"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.null_text == "encode" and self.encoder is None:
            raise ValueError("captions.null_text is 'encode', which needs captions.encoder")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"captions.dropout must be in [0, 1], got {self.dropout}")

    @cached_property
    def built(self) -> TextEncoder:
        """The text encoder.

        Raises:
            ValueError: There is none, it lacks members of `TextEncoder`, or `null_text` is a file of another encoder.
        """
        if self.encoder is None:
            raise ValueError(
                "a prompt is given, but the model has no text encoder: set model.init_args.captions.encoder"
            )
        encoder = self.encoder()
        if not isinstance(encoder, TextEncoder):
            raise ValueError(
                f"captions.encoder: {type(encoder).__name__} lacks members of scene4d.networks.text.TextEncoder"
            )
        if self.null_text not in ("zeros", "encode") and self._null_of_file[1] != encoder.fingerprint:
            raise ValueError(
                f"captions.encoder is text encoder {encoder.fingerprint}, captions.null_text {self.null_text!r} was "
                f"embedded by {self._null_of_file[1]}: make it with the encoder (preparation.captions)"
            )
        return encoder

    def embed(self, batch: SceneBatch) -> Text | None:
        """The caption of every sample, the null condition where it has none; None if no sample has a caption.

        Raises:
            ValueError: The captions were embedded by another encoder, or there is no encoder for prompts.
        """
        if not (has := given(batch)).any():
            return None
        if batch.text is not None and not batch.prompts:
            self._check(batch)
            return self.without(batch.text, ~has)
        text = pad_sequence(self.built.encode(batch.prompts), batch_first=True)
        return self.without(text.to(batch.images.device), ~has)

    def embed_or_nothing(self, batch: SceneBatch) -> Text | None:
        """The same, with the null condition where no sample has a caption; None stands for zeros of any length."""
        text = self.embed(batch)
        if text is not None or self._null is None:
            return text
        return self._null[0].to(batch.images.device).expand(len(batch.images), -1, -1)

    def embed_for_training(self, batch: SceneBatch, generator: torch.Generator) -> Text | None:
        """The same, with captions left out at random."""
        text = self.embed_or_nothing(batch)
        if text is None or not given(batch).any():
            return text
        draws = torch.rand(len(text), generator=generator, device=generator.device)
        return self.without(text, (draws < self.dropout).to(text.device))

    def without(self, text: Text, absent: Bool[Tensor, " b"]) -> Text:
        """The captions with the null condition in the place of some.

        Raises:
            ValueError: The null condition has another number of channels than the captions; names both.
        """
        if self._null is None:
            return text * ~absent[:, None, None]
        if self._null[0].shape[1] != text.shape[2]:
            raise ValueError(
                f"captions have {text.shape[2]} channels, captions.null_text {self.null_text!r} has "
                f"{self._null[0].shape[1]}: embed both with one text encoder (preparation.captions)"
            )
        null, length = self._null[0].to(text), max(text.shape[1], len(self._null[0]))
        null, text = (F.pad(x, (0, 0, 0, length - x.shape[-2])) for x in (null, text))
        return torch.where(absent[:, None, None], null, text)

    @cached_property
    def _null(self) -> tuple[Float[Tensor, "l d"], str] | None:
        """The embedded empty prompt and the fingerprint of its encoder; None where zeros take its place."""
        if self.null_text == "zeros":
            return None
        if self.null_text == "encode":
            return self.built.encode([""])[0], self.built.fingerprint
        return self._null_of_file

    @cached_property
    def _null_of_file(self) -> tuple[Float[Tensor, "l d"], str]:
        return read_null_text(self.null_text)

    def _check(self, batch: SceneBatch) -> None:
        """Shards that were written before have no fingerprint."""
        expected = self._fingerprint()
        if None in (expected, batch.text_encoder) or expected == batch.text_encoder:
            return
        raise ValueError(
            f"captions of source {batch.source[0]!r} were embedded by text encoder {batch.text_encoder}, the model's "
            f"is {expected}: embed them with its class and weights (preparation.captions)"
        )

    def _fingerprint(self) -> str | None:
        """That of the encoder if it is known without building it."""
        if self._null is not None:
            return self._null[1]
        return self.built.fingerprint if "built" in self.__dict__ else None


def given(batch: SceneBatch) -> Bool[Tensor, " b"]:
    """Whether a sample has a caption. Collation leaves zeros where it has none."""
    device = batch.images.device
    if batch.prompts:
        return torch.tensor([bool(prompt.strip()) for prompt in batch.prompts], device=device)
    if batch.text is None:
        return torch.zeros(len(batch.images), dtype=torch.bool, device=device)
    return batch.text.ne(0).flatten(1).any(1)
