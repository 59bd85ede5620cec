"""The `manifest.json` beside shards names their contents, checksums and licences."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from datamodules.archives import open_shard
from scene4d.atomic import write_text

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


@dataclass
class ShardRecord:
    """The manifest's entry for one shard.

    Attributes:
        samples: Number of samples.
        bytes: Size of the file.
        sha256: Checksum of the file.
        fingerprint: Checksum of the content; the same samples in another order or archive have the same one.
        sources: Number of samples per source.
        licenses: Number of samples per licence.
    """

    samples: int
    bytes: int
    sha256: str
    fingerprint: str
    sources: dict[str, int] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)


class _Manifest(TypedDict):
    version: int
    shards: dict[str, dict[str, object]]


class ShardContent:
    """Gathers the record of a shard while its samples pass by."""

    def __init__(self) -> None:
        self.samples = 0
        self._digests: list[bytes] = []
        self._sources: Counter[str] = Counter()
        self._licenses: Counter[str] = Counter()

    def add(self, key: str, meta: bytes) -> None:
        """Takes a sample's key and its meta.json, which holds the checksums of its other members."""
        entries = json.loads(meta)
        self.samples += 1
        self._digests.append(hashlib.sha256(key.encode() + b"\n" + meta).digest())
        self._sources[entries["source"]] += 1
        self._licenses[entries["license"]] += 1

    def record(self, size: int, sha256: str) -> ShardRecord:
        """Returns the record of all samples added so far, for a file of `size` bytes."""
        fingerprint = hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()
        return ShardRecord(self.samples, size, sha256, fingerprint, dict(self._sources), dict(self._licenses))


def file_sha256(url: str) -> tuple[int, str]:
    """Returns the size in bytes and the SHA-256 of a file or address."""
    digest, size = hashlib.sha256(), 0
    with open_shard(url) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def add_to_manifest(shard: Path, record: ShardRecord) -> None:
    """Writes a shard's record into the manifest of its folder; other processes may do the same at the same time."""
    with (shard.parent / f".{MANIFEST}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = shard.parent / MANIFEST
        manifest: _Manifest = {"version": MANIFEST_VERSION, "shards": {}}
        if path.exists():
            manifest = json.loads(path.read_text())
        manifest["shards"][shard.name] = asdict(record)
        manifest["shards"] = dict(sorted(manifest["shards"].items()))
        write_text(path, json.dumps(manifest, indent=1) + "\n")


def recorded(url: str) -> ShardRecord | None:
    """Returns the entry of a shard in the manifest beside it; None if there is no manifest or no entry.

    Raises:
        ValueError: The manifest is damaged or has another version; names it.
    """
    folder, _, name = url.rpartition("/")
    if url.startswith("pipe:"):
        return None
    address = f"{folder}/{MANIFEST}" if folder else MANIFEST
    try:
        with open_shard(address) as file:
            content = file.read()
    except OSError:  # a missing file, or HTTP 404
        return None
    return _entry(content, name, address)


def _entry(content: bytes, name: str, address: str) -> ShardRecord | None:
    try:
        manifest = json.loads(content)
        if manifest["version"] != MANIFEST_VERSION:
            raise ValueError(f"version {manifest['version']!r}, expected {MANIFEST_VERSION}")
        entry = manifest["shards"].get(name)
        return None if entry is None else ShardRecord(**entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"manifest {address!r} cannot be read: {error!r}") from error
