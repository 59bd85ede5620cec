import bz2
import gzip
import io
import lzma
import tarfile

import pytest

from datamodules.tar_files import tar_files

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(names, form=tarfile.PAX_FORMAT, **entries):
    """Files of 0, 700, 1400, ... bytes; `entries` go into every header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            header = tarfile.TarInfo(name)
            header.size = 700 * number
            for entry, value in entries.items():
                setattr(header, entry, value)
            tar.addfile(header, io.BytesIO(bytes([number]) * header.size))
    return buffer.getvalue()


def files(data):
    return list(tar_files(io.BytesIO(data)))


def of_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar if member.isreg()]


@pytest.mark.parametrize("form", FORMATS)
def test_files_are_those_of_tarfile(form):
    """Long folders, fractional times (extended headers in POSIX archives), and names of several bytes a letter."""
    names = ["a.txt", f"{'folder/' * 14}{'n' * 60}.txt", "ünï.txt", "b.txt"]
    data = archive(names, form, mtime=1.5)
    assert files(data) == of_tarfile(data) and [name for name, _ in files(data)] == names


@pytest.mark.parametrize("form", FORMATS[1:])
def test_long_names_are_those_of_the_next_file_only(form):
    data = archive(["a" * 300, "b", "ü" * 200], form)
    assert files(data) == of_tarfile(data)


def test_what_is_no_file_is_passed_over():
    buffer = io.BytesIO(archive(["a", "b"]))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            header = tarfile.TarInfo("other")
            header.type, header.linkname, header.size = kind, "a", 9
            tar.addfile(header)
        header = tarfile.TarInfo("c")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"ccc"))
    assert files(buffer.getvalue()) == [("a", b""), ("b", b"\1" * 700), ("c", b"ccc")]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archives(compress):
    data = archive(["a", "b", "c"])
    assert files(compress(data)) == of_tarfile(data)
    with pytest.raises(EOFError):
        files(compress(data)[:-20])


def test_every_cut_is_noticed():
    """And no file is given in part; behind the first block of the end marker nothing is missed."""
    whole = archive(["a", "b", "c"], mtime=1.5)
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512
    for length in [*range(0, end, 97), end, end + 100]:
        found = []
        with pytest.raises(tarfile.ReadError):
            found.extend(tar_files(io.BytesIO(whole[:length])))
        assert found == files(whole)[: len(found)]


def test_every_changed_byte_of_a_header_is_noticed():
    """Of the checksum itself a zero may become a space, and nobody reads its last byte."""
    data = archive(["a", "b"])
    for place in [*range(512, 512 + 148), *range(512 + 156, 1024)]:
        with pytest.raises(tarfile.ReadError):
            files(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])


def test_size_and_name_of_an_extended_header_count():
    data = archive(["first", "second"], pax_headers={"path": "other", "comment": "x"})
    assert files(data) == of_tarfile(data) and files(data)[0][0] == "other"
    with pytest.raises(tarfile.ReadError, match="sparse"):
        files(archive(["first"], pax_headers={"GNU.sparse.major": "1"}))
