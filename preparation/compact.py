"""Writes shards again with AVIF in place of H.264 and without depth: half the size, and read without PyAV.

    python -m preparation.compact 'data/small/*-train-*.tar' --output data/compact
    python -m preparation.compact 'data/small/rooms-*.tar' --output data/compact --depth

The videos are encoded a second time, at 39 to 41 dB to the first. Cameras, captions and their embeddings stay; stored
latents are left out, because they are those of the other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datamodules.archives import Members
from preparation.writing.jobs import start_logging
from preparation.writing.reports import Report, write_reported
from preparation.writing.rewriting import (
    finish_part,
    one_line_errors,
    rewriting_parser,
    rewritten,
    shards_of_part,
)
from scene4d.avif_video import check_avif
from scene4d.sample_format import decode_sample, encode_sample


@dataclass(frozen=True)
class CompactJob:
    """All that a process needs to write one shard.

    Attributes:
        url: Shard to read.
        path: Shard to write.
        quality: Of AVIF, 0 to 100.
        depth: Whether depth is kept.
    """

    url: str
    path: Path
    quality: int
    depth: bool

    def recipe(self) -> dict[str, object]:
        """Returns everything that decides the content of the shard."""
        return {"url": self.url, "avif": self.quality, "depth": self.depth}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the shards of one part that do not exist yet, and the report of the part.

    Raises:
        SystemExit: A shard cannot be read or named, or finished ones were made with other options.
    """
    parser = rewriting_parser(__doc__)
    parser.add_argument("--quality", type=int, default=75, help="quality of AVIF, 0 to 100")
    parser.add_argument("--depth", action="store_true", help="keep depth, which reconstruction trains on")
    options = parser.parse_args(arguments)
    start_logging()
    with one_line_errors("compact"):
        check_avif()
        jobs = [
            CompactJob(url, path, options.quality, options.depth)
            for url, path in shards_of_part("compact", options)
        ]
        finish_part("compact", options, jobs, make_shard)


def make_shard(job: CompactJob) -> Report:
    """Writes one shard and its report and returns the report."""
    skipped = dict[str, str]()
    change = partial(compacted, quality=job.quality, depth=job.depth)
    return write_reported(job, rewritten(job, change, skipped), skipped)


def compacted(members: Members, quality: int, depth: bool) -> Members:
    """Returns a sample with its views as AVIF.

    Args:
        members: As `decode_sample` takes them.
        quality: Of AVIF, 0 to 100.
        depth: Whether depth is kept, where there is some.

    Raises:
        ValueError: The sample is damaged; names its key.
    """
    sample = decode_sample(members, depth=depth)
    if not depth:
        sample = replace(sample, depth_frames=[])
    return encode_sample(sample, avif=quality)


if __name__ == "__main__":
    main()
