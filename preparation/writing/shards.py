"""Shards appear whole or not at all, so an interrupted preparation is simply started again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import webdataset

from datamodules.archives import Members
from preparation.writing.manifest import ShardContent, add_to_manifest, file_sha256
from scene4d.atomic import replacing
from scene4d.sample_format import SceneSample, encode_sample


def shard_path(output: Path, source: str, split: str, index: int) -> Path:
    """Returns `<output>/<source>-<split>-<index>.tar`."""
    return output / f"{source}-{split}-{index:06d}.tar"


def write_shard(path: Path, samples: Iterable[SceneSample], crf: int = 12) -> int:
    """Encodes samples one by one and writes them with `write_encoded`.

    Args:
        path: The finished shard; its folder is created.
        samples: Scenes to write; a generator keeps memory low.
        crf: H.264 constant rate factor of the videos, 0 (lossless) to 51.

    Returns:
        Number of samples written.
    """
    return write_encoded(path, (encode_sample(sample, crf) for sample in samples))


def write_encoded(path: Path, samples: Iterable[Members]) -> int:
    """Writes a shard, whole or not at all, and records it in `manifest.json` in the same folder.

    Args:
        path: The finished shard; its folder is created.
        samples: Members of every sample, as `encode_sample` returns them.

    Returns:
        Number of samples written.
    """
    content = ShardContent()
    with replacing(path) as temporary:
        with webdataset.TarWriter(str(temporary), encoder=False, mtime=0) as writer:
            for members in samples:  # an mtime that is no integer would cost 1 KB per member
                writer.write(members)
                content.add(str(members["__key__"]), members["meta.json"])
        record = content.record(*file_sha256(str(temporary)))
    add_to_manifest(path, record)
    return content.samples
