"""Reads the files of a tar archive strictly as a stream: damage is never taken for the end of the archive.

The standard library's tarfile does more for every file than decoding a small still costs (two headers with 13 fields
each, four layers of readers). It also takes a damaged or missing header, except the first, for the end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from tarfile import BLOCKSIZE, ReadError
from typing import IO, Any, NamedTuple

# the overloads of the three functions have no type in common
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
REGULAR = b"\0" + b"07"
WITHOUT_CONTENT = b"123456"  # links, devices, folders
GLOBAL, EXTENDED, LONG_NAME, LONG_LINK, SPARSE = b"g", b"x", b"L", b"K", b"S"


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


def tar_files(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every regular file of an archive, compressed or not.

    Args:
        stream: Opened archive, which need not be seekable.

    Raises:
        tarfile.ReadError: The archive is damaged or cut off, or holds a sparse file.
    """
    stream = _decompressed(stream)
    changes: dict[str, str] = {}  # from an extended header, for the file behind it
    while header := _next_header(stream):
        size = header.size
        if header.kind in REGULAR:
            size = int(changes.get("size", size))
        content = b"" if header.kind in WITHOUT_CONTENT else _padded(stream, size)
        if header.kind == EXTENDED:
            changes |= _records(content)
        elif header.kind == LONG_NAME:
            changes["path"] = _text(content)
        elif header.kind not in (GLOBAL, LONG_LINK):
            if header.kind in REGULAR:
                yield changes.get("path", header.name), content
            changes = {}
    while rest := stream.read(1 << 16):  # zeros written over a header must not pass for the end
        if rest.count(0) < len(rest):
            raise ReadError("data after the end marker: the archive is damaged")


def _decompressed(stream: IO[bytes]) -> IO[bytes]:
    if not hasattr(stream, "peek"):
        stream = io.BufferedReader(stream)  # type: ignore[type-var]
    opener = COMPRESSED.get(stream.peek(2)[:2])
    return stream if opener is None else opener(stream, "rb")


def _next_header(stream: IO[bytes]) -> _Header | None:
    """Reads the next header; None at the end marker."""
    block = stream.read(BLOCKSIZE)
    if len(block) < BLOCKSIZE:
        raise ReadError("cut off inside a header" if block else "no end marker, the archive is cut off")
    if not any(block):
        return None
    if not _agrees(block):
        raise ReadError("bad checksum of a header")
    if block[156:157] == SPARSE:
        raise ReadError("holds a sparse file")
    name, folder = _text(block[:100]), _text(block[345:500])
    kind = block[156:157]
    if folder and kind in REGULAR:
        name = f"{folder}/{name}"
    return _Header(name, _number(block[124:136]), kind)


def _padded(stream: IO[bytes], size: int) -> bytes:
    """Reads the content of a file, whose last block is filled up."""
    content, rest = stream.read(size), -size % BLOCKSIZE
    if len(content) < size or len(stream.read(rest)) < rest:
        raise ReadError("cut off inside a file")
    return content


def _records(content: bytes) -> dict[str, str]:
    """Finds path and size among the records "LENGTH KEY=VALUE\\n" of an extended header (POSIX pax)."""
    found, place = {}, 0
    while place < len(content) and content[place]:
        length, space, _ = content[place : place + 20].partition(b" ")
        if not (space and length.isdigit() and int(length) > len(length) + 2):
            raise ReadError("bad extended header")
        key, _, value = content[place + len(length) + 1 : place + int(length) - 1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise ReadError("holds a sparse file")
        if key == b"size" and not value.isdigit():
            raise ReadError("bad size in an extended header")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        place += int(length)
    return found


def _number(field: bytes) -> int:
    """Reads an octal number, or a binary one behind a byte of 128 (GNU)."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits and not digits.isdigit():
        raise ReadError("bad number in a header")
    return int(digits or b"0", 8)


def _agrees(block: bytes) -> bool:
    """Tells whether the checksum is right; its own field counts as spaces."""
    stored, total = _number(block[148:156]), sum(block) - sum(block[148:156]) + 8 * ord(" ")
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
