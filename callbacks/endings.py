"""How a command ends after an error: one line that names the file for a user's mistake, a traceback for a bug."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.ranks import lost_rank
from scene4d.messages import first_difference, one_line, with_working_directory

TAKEN_PORT = re.compile(r"failed to listen.* port: (\d+),.*EADDRINUSE")


@contextmanager
def naming_files(root: str, checkpoint: str | None) -> Iterator[None]:
    """Adds to errors which file they are about.

    Args:
        root: The folder of the run, which TensorBoard's errors do not name.
        checkpoint: The checkpoint that is loaded.

    Raises:
        OSError: The disk is full, for example.
        ValueError: The checkpoint belongs to another architecture.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), root) from error
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        raise ValueError(f"{checkpoint}: {first_difference(str(error))}") from error


def line_of(error: Exception) -> str | None:
    """What a user has to know of an error; None if it is a bug, whose traceback says more."""
    if isinstance(error, OSError):
        known = error.filename is not None and error.strerror is not None
        return with_working_directory(f"{str(error.filename)!r}: {error.strerror}") if known else None
    if port := TAKEN_PORT.search(str(error)):
        return f"port {port[1]} of this machine is in use by another program: set MASTER_PORT to a free one"
    if lost_rank(error):
        return "another rank has ended; its own message says why"
    if isinstance(error, (ArgumentError, ValueError, MisconfigurationException)):
        return with_working_directory(one_line(error))
    return None
