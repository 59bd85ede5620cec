"""Embeds the captions of shards anew with any text encoder, so that training needs none; restartable as all commands.

    python -m preparation.captions 'data/latents/*-train-*.tar' --output data/training \\
        --encoder scene4d.networks.text.Umt5Encoder --encoder.pretrained Wan-AI/Wan2.1-T2V-1.3B-Diffusers
    python -m preparation.captions 'data/latents/*-train-*.tar' --output data/training \\
        --config configs/latents/wan_captions.yaml

`text.npy` becomes the embedding of each sample's caption, without padding; pictures, latents and the rest stay to the
byte. A sample without a caption is left without an embedding, and training gives it the null condition; a shard in
which no sample has a caption ends the command. `null_text.safetensors` in the output is that condition: the embedding
of the empty prompt. Shards and file name the encoder by its fingerprint, which is checked when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jsonargparse import Namespace
from torch import Tensor

from datamodules.archives import Members
from preparation.writing.jobs import start_logging
from preparation.writing.reports import Report, write_reported
from preparation.writing.rewriting import (
    built,
    finish_part,
    one_line_errors,
    rewriting_parser,
    rewritten,
    shards_of_part,
    spec_of,
)
from scene4d.networks.null_text import NULL_TEXT, read_null_text, write_null_text
from scene4d.networks.text import TextEncoder
from scene4d.sample_changes import add_text
from scene4d.sample_format import read_meta

KEPT = 256  # embeddings kept in memory: clips of one video share their caption


@dataclass(frozen=True)
class CaptionsJob:
    """All that a process needs to write one shard.

    Attributes:
        url: Shard to read.
        path: Shard to write.
        encoder: Class path and arguments of the text encoder as JSON.
        fingerprint: Fingerprint of the text encoder.
        device: Device that embeds.
    """

    url: str
    path: Path
    encoder: str
    fingerprint: str
    device: str

    def recipe(self) -> dict[str, object]:
        """Returns everything that decides the content of the shard."""
        return {"url": self.url, "text_encoder": self.fingerprint}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the shards of one part that do not exist yet, the report of the part, and the null condition.

    Raises:
        SystemExit: A shard cannot be read or named or has no caption, or finished ones were made with other options.
    """
    options = rewriting_parser(__doc__, "encoder", "embeds").parse_args(arguments)
    start_logging()
    with one_line_errors("captions"):
        spec = spec_of(options, "encoder")
        encoder = _encoder(spec, options.device)
        _refuse_another(options.output / NULL_TEXT, encoder.fingerprint)
        finish_part("captions", options, _plan(options, spec, encoder.fingerprint), make_shard)
        write_null_text(options.output / NULL_TEXT, encoder.encode([""])[0], encoder.fingerprint)


def make_shard(job: CaptionsJob) -> Report:
    """Writes one shard and its report and returns the report."""
    encoder = _encoder(job.encoder, job.device)
    if encoder.fingerprint != job.fingerprint:
        raise ValueError(f"the text encoder is another in every process, it needs weights: {job.encoder}")
    embed = _embedding(encoder)

    def with_text(members: Members) -> Members:
        caption = read_meta(members)["caption"]
        return add_text(members, embed(caption).numpy() if caption else None, job.fingerprint)

    skipped = dict[str, str]()
    return write_reported(job, _captioned(job, rewritten(job, with_text, skipped)), skipped)


def _captioned(job: CaptionsJob, samples: Iterator[Members]) -> Iterator[Members]:
    """The same samples; ends with an error if there were some and none has a caption, so that no shard is written."""
    count = captions = 0
    for members in samples:
        count, captions = count + 1, captions + ("text.npy" in members)
        yield members
    if count and not captions:
        raise ValueError(
            f"{job.url}: none of its {count} samples has a caption; leave the shard out, it trains without text"
        )


def _embedding(encoder: TextEncoder) -> Callable[[str], Tensor]:
    """Embeds one caption at a time, so that no embedding depends on the shard it is in."""
    return lru_cache(KEPT)(lambda caption: encoder.encode([caption])[0])


def _refuse_another(path: Path, fingerprint: str) -> None:
    if path.exists() and (found := read_null_text(path)[1]) != fingerprint:
        raise ValueError(
            f"{path} was made by text encoder {found}, now {fingerprint}; choose another --output"
        )


def _plan(options: Namespace, spec: str, fingerprint: str) -> list[CaptionsJob]:
    return [
        CaptionsJob(url, path, spec, fingerprint, options.device)
        for url, path in shards_of_part("captions", options)
    ]


def _encoder(spec: str, device: str) -> TextEncoder:
    encoder = built("encoder", spec, device)
    if not isinstance(encoder, TextEncoder):
        raise ValueError(
            f"{type(encoder).__name__} lacks members of scene4d.networks.text.TextEncoder: {spec}"
        )
    return encoder


if __name__ == "__main__":
    main()
