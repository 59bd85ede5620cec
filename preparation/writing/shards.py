"""Shards written atomically: one that exists is complete, so an interrupted preparation just starts again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import webdataset

from preparation.writing.manifest import ShardContent, add_to_manifest, file_sha256
from scene4d.sample_format import SceneSample, encode_sample


def shard_path(output: Path, source: str, split: str, index: int) -> Path:
    """`<output>/<source>-<split>-<index>.tar`."""
    return output / f"{source}-{split}-{index:06d}.tar"


def write_shard(path: Path, samples: Iterable[SceneSample], crf: int = 12) -> int:
    """Encodes samples one by one and writes them with `write_encoded`.

    Args:
        path: Of the finished shard; its folder is created.
        samples: A generator keeps memory low.
        crf: H.264 constant rate factor of the videos, 0 (lossless) to 51.

    Returns:
        Number of samples written.
    """
    return write_encoded(path, (encode_sample(sample, crf) for sample in samples))


def write_encoded(path: Path, samples: Iterable[dict[str, Any]]) -> int:
    """Writes samples to a temporary file beside `path`, renames it when it is complete, and records it.

    The record goes to `manifest.json` in the same folder.

    Args:
        path: Of the finished shard; its folder is created.
        samples: Their members, as `encode_sample` gives them.

    Returns:
        Number of samples written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = ShardContent()
    try:
        with webdataset.TarWriter(str(temporary), encoder=False, mtime=0.0) as writer:
            for members in samples:
                writer.write(members)
                content.add(members["__key__"], members["meta.json"])
        record = content.record(*file_sha256(str(temporary)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    add_to_manifest(path, record)
    return content.samples
