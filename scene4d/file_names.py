"""Names that come from data become names of files here, and nowhere else.

A key of a sample or of a grid file may be anything: `../../x`, `/etc/x`, `CON`, 5000 letters, the key of another
scene. No such name may lead out of the output folder, be refused by a file system, or take the place of another.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b
from pathlib import Path

LONGEST = 120  # bytes; file systems allow 255, and others add endings
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, with any ending


def safe_name(name: str) -> str:
    """Turns any text into the name of one file or folder that every file system takes.

    Names of letters, digits, and `-_.+=@,()[]` and spaces inside stay as they are, unless they begin with a dot or
    are reserved or too long. Different texts may get the same name, see `FreeNames`.
    """
    plain = re.sub(r"[^\w\-.+=@,()\[\] ]", "_", unicodedata.normalize("NFC", name))
    plain = re.sub(r"^[. ]+|[. ]+$", lambda found: "_" * len(found[0]), plain) or "_"
    if RESERVED.fullmatch(plain):
        plain = f"_{plain}"
    if len(plain.encode()) <= LONGEST:
        return plain
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{plain.encode()[: LONGEST - 13].decode(errors='ignore')}_{digest}"


class FreeNames:
    """Gives every thing of one run a file name of its own: KEY, then KEY_2, KEY_3 and so on.

    Names that differ in case only count as one, since some file systems hold them for one. A rerun gives the same
    names in the same order, so that it replaces its own files.

    Args:
        claims: An empty folder that all processes of the run see, which they mark names in; None where there is one
            process.
    """

    def __init__(self, claims: Path | None = None) -> None:
        self.claims, self.taken = claims, set[str]()

    def take(self, name: str) -> str:
        """A safe file name that nothing else of this run has."""
        safe, number = safe_name(name), 1
        chosen = safe
        while not self.claim(chosen):
            number += 1
            chosen = f"{safe}_{number}"
        return chosen

    def claim(self, name: str) -> bool:
        """Takes this very name, unless another thing of this run has it."""
        folded = name.casefold()
        if folded in self.taken:
            return False
        self.taken.add(folded)
        if self.claims is None:
            return True
        try:
            (self.claims / blake2b(folded.encode(), digest_size=16).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
