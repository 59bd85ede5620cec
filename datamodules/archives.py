"""Opens shards wherever they lie and reads them strictly: damage is never taken for the end of an archive."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING

import fsspec
import webdataset as wds

from datamodules.tar_files import tar_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Members = dict[str, bytes]

SILENCE_SECONDS = 10.0  # a server or command that says nothing for this long counts as failed
WAITS = (1.0, 3.0)  # seconds before the second and the third attempt at a remote shard
TEMPORARY = (408, 425, 429)  # answers of a server that is asked again: it timed out or has too much to do


def is_remote(url: str) -> bool:
    """Tells whether an address is a pipe or has a scheme, so that it cannot be looked up on disk."""
    return url.startswith("pipe:") or "://" in url


def open_shard(url: str, silence: float = SILENCE_SECONDS) -> AbstractContextManager[IO[bytes]]:
    """Opens a path, a `pipe:` command, an `http(s)://` address, or any other scheme that fsspec knows (s3, gs, ...).

    Args:
        url: Path or address.
        silence: Seconds without a byte after which a server or command counts as failed.
    """
    if url.startswith("pipe:"):
        return io.BufferedReader(_CommandOutput(url.removeprefix("pipe:"), silence), 1 << 20)
    if url.startswith(("http://", "https://")):
        return urllib.request.urlopen(url, timeout=silence)
    if "://" in url:
        return fsspec.open(url, "rb")
    return open(url, "rb")


def check_scheme(url: str) -> None:
    """Checks that a remote address can be opened at all, without asking its server.

    Raises:
        ValueError: Its scheme is unknown, or needs a package that is not installed; names both.
    """
    if url.startswith(("pipe:", "http://", "https://")) or "://" not in url:
        return
    for scheme in url.partition("://")[0].split("::"):
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:  # fsspec names the package
            raise ValueError(f"{url!r} cannot be opened: {error}") from error


def read_archive(url: str, retry: bool = True) -> Iterator[Members]:
    """Yields the raw samples of a shard, nothing decoded.

    A remote shard that fails is read again from its start after a wait; samples yielded before are passed over. What
    will not change, as a package or a file that is missing, is not waited for.

    Args:
        url: Path or address.
        retry: Whether a remote shard is tried more than once.

    Raises:
        ValueError: The scheme of an address is unknown, or needs a package that is not installed.
        Exception: Opening or reading fails; `tarfile.ReadError` if the archive is damaged or cut off.
    """
    check_scheme(url)
    given = 0
    for wait in [*(WAITS if retry and is_remote(url) else ()), None]:
        try:
            for index, sample in enumerate(wds.tariterators.group_by_keys(_files(url))):
                if index >= given:
                    given += 1
                    yield sample
            return
        except Exception as error:
            if wait is None or _is_final(error):
                raise
            time.sleep(wait)


def _is_final(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in TEMPORARY
    return isinstance(error, (ImportError, FileNotFoundError, PermissionError))


def _files(url: str) -> Iterator[dict[str, str | bytes]]:
    """Yields the files of an archive as webdataset groups them; the empty one ends the last sample."""
    with open_shard(url) as stream:
        for name, content in tar_files(stream):
            # `tar -C FOLDER -cf SHARD .` puts ./ in front of every name
            yield {"fname": name.removeprefix("./"), "data": content, "__url__": url}
    yield {}


class _CommandOutput(io.RawIOBase):
    """Reads the output of a shell command; a command that falls silent or fails raises an error.

    Args:
        command: Command line that `sh -c` runs.
        silence: Seconds without output after which the command counts as failed.
    """

    def __init__(self, command: str, silence: float) -> None:
        self.command, self.silence = command, silence
        self.process = subprocess.Popen(
            command, shell=True, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Reads the bytes that are there.

        Raises:
            TimeoutError: There was no output for `silence` seconds.
            OSError: The command failed.
        """
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], self.silence)[0]:
            raise TimeoutError(f"no output of {self.command!r} for {self.silence:g} s")
        count = os.readv(output.fileno(), [buffer])
        if count == 0 and (code := self.process.wait(self.silence)):
            raise OSError(f"command {self.command!r} failed with exit code {code}")
        return count

    def close(self) -> None:
        """Stops the command with all that it started."""
        if not self.closed and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if not self.closed and self.process.stdout is not None:
            self.process.stdout.close()
        super().close()
