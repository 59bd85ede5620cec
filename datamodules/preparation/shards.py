"""Shards written atomically: one that exists is complete, so an interrupted preparation just starts again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import webdataset

from scene4d.sample_format import SceneSample, encode_sample


def shard_path(output: Path, source: str, split: str, index: int) -> Path:
    """`<output>/<source>-<split>-<index>.tar`."""
    return output / f"{source}-{split}-{index:06d}.tar"


def write_shard(path: Path, samples: Iterable[SceneSample], crf: int = 12) -> int:
    """Writes samples to a temporary file beside `path` and renames it when it is complete.

    Args:
        path: Of the finished shard; its folder is created.
        samples: Encoded one by one, so a generator keeps memory low.
        crf: H.264 constant rate factor of the videos, 0 (lossless) to 51.

    Returns:
        Number of samples written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with webdataset.TarWriter(str(temporary), encoder=False, mtime=0.0) as writer:
            for sample in samples:
                members = encode_sample(sample, crf)
                writer.write(
                    {
                        k: v if isinstance(v, bytes) or k == "__key__" else v.encode()
                        for k, v in members.items()
                    }
                )
                count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
