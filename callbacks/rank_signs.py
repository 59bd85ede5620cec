"""Signs of life of all ranks, kept where every rank can read them without waiting for another."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import FrameType

from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
OURS = ("callbacks", "datamodules", "lightning_modules", "scene4d")
TIMEOUT = timedelta(seconds=30)  # of a connection

_runs = count()  # all ranks begin the same runs in the same order


@dataclass
class Sign:
    """The last sign of life of a rank.

    Attributes:
        number: How many there were.
        step: Optimizer steps that are complete.
        doing: What the rank does since then.
        begun: Whether a batch is complete, so that it has compiled and read what comes first.
        quiet: Seconds since then.
        where: The line that its main thread is in.
        host: The machine.
        looks: How often the rank has looked at the others; it does so even when its main thread hangs.
    """

    number: int = 0
    step: int = 0
    doing: str = "starting"
    begun: bool = False
    quiet: float = 0.0
    where: str = ""
    host: str = socket.gethostname()
    looks: int = 0


class SignBoard:
    """Signs of all ranks, in the store through which the process group has found itself.

    It has a connection of its own: on that of the process group, a main thread that waits would keep all others out.
    Nothing is waited for: a rank that has written nothing has no sign.

    Args:
        ranks: Number of ranks.

    Raises:
        RuntimeError: The store cannot be reached.
    """

    def __init__(self, ranks: int) -> None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = TCPStore(host, port, is_master=False, timeout=TIMEOUT, wait_for_workers=False)
        self.ranks, self.run = ranks, next(_runs)

    def put(self, rank: int, sign: Sign) -> None:
        """Shows the sign of a rank."""
        self.store.set(self._key(str(rank)), json.dumps(asdict(sign)))

    def get(self, rank: int) -> Sign | None:
        """The sign of a rank, if it has shown one."""
        key = self._key(str(rank))
        return Sign(**json.loads(self.store.get(key))) if self.store.check([key]) else None

    def end(self) -> None:
        """Tells all ranks to end."""
        self.store.set(self._key("end"), "1")

    @property
    def ended(self) -> bool:
        """Whether all ranks shall end."""
        return bool(self.store.check([self._key("end")]))

    def _key(self, name: str) -> str:
        return f"scene4d/signs/{self.run}/{name}"


def sign_table(signs: Sequence[Sign | None]) -> str:
    """One line per rank."""
    rows = [("rank", "host", "step", "doing", "seconds ago", "where")]
    for rank, sign in enumerate(signs):
        if sign is None:
            rows.append((str(rank), "?", "?", "has not begun", "?", ""))
        else:
            rows.append((str(rank), sign.host, str(sign.step), sign.doing, f"{sign.quiet:.0f}", sign.where))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(x.ljust(width) for x, width in zip(row, widths)).rstrip() for row in rows
    )


def place_of(thread: int) -> str:
    """The line that a thread is in: of this project if that says more than what it calls, otherwise the innermost."""
    innermost = frame = sys._current_frames().get(thread)
    while frame is not None and not _ours(frame):
        frame = frame.f_back
    chosen = frame or innermost
    if chosen is None:
        return ""
    path = "/".join(Path(chosen.f_code.co_filename).parts[-2:])
    return f"{path}:{chosen.f_lineno} {chosen.f_code.co_name}"


def _ours(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS
