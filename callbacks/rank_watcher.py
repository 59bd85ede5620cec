"""The thread of a rank that looks at the signs of life of all ranks, and ends the process when there are none."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from callbacks.rank_signs import Sign, SignBoard, place_of, sign_table
from callbacks.ranks import LAUNCHER
from scene4d.interruption import WHERE

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two looks
WRITING = 0.5  # seconds in which workers print where they are
START = 3  # times the limit, until a first batch is complete

# Held while the thread is at work. A fork waits for its end: a process that loads data would inherit whatever lock the
# thread holds at that moment, and wait for ever.
_at_work = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_at_work.release
    )


class Watcher(threading.Thread):
    """Shows this rank's signs of life to the others and looks at theirs; the main thread may be stuck.

    Args:
        board: Where signs are shown.
        rank: This rank. Rank 0 decides, and the others notice if it is gone.
        limit: Seconds without a sign.

    Attributes:
        children: What has started the other ranks, if this one did it.
    """

    children: _SubprocessScriptLauncher | None = None

    def __init__(self, board: SignBoard, rank: int, limit: float) -> None:
        super().__init__(daemon=True, name="hang watch")
        self.board, self.rank, self.limit = board, rank, limit
        self.interval = min(INTERVAL, limit / 10)
        self.done, self.sign, self._main = threading.Event(), Sign(), threading.get_ident()
        self._quiet, self._looks, self._last, self._seen = 0.0, 0, time.monotonic(), list[int]()

    def alive(self, step: int, doing: str, begun: bool) -> None:
        """A sign of life of the main thread."""
        begun = begun or self.sign.begun
        self.sign = Sign(self.sign.number + 1, step, doing, begun)
        self._last = time.monotonic()

    def again(self, *_: object) -> None:
        """A sign of life of a main thread that does what it did."""
        self.alive(self.sign.step, self.sign.doing, False)

    def run(self) -> None:
        """Looks at all signs again and again."""
        before = time.monotonic()
        while not self.done.wait(self.interval):
            now = time.monotonic()
            # a process that was suspended is late, which says nothing about its life
            passed, before = min(now - before, 2 * self.interval), now
            try:
                with _at_work:
                    self._show(now)
                    self._look(passed)
            except RuntimeError as error:  # the store is gone, and with it the rank or torchrun that kept it
                self._count(passed, self._seen)
                if self._quiet >= self.limit:
                    self._end(f"rank 0 cannot be reached for {self._quiet:.0f} s: {error}")

    def _show(self, now: float) -> None:
        sign, self._looks = self.sign, self._looks + 1
        sign.looks, sign.quiet, sign.where = self._looks, now - self._last, place_of(self._main)
        self.board.put(self.rank, sign)

    def _look(self, passed: float) -> None:
        if self.rank:
            if self.board.ended:
                self._end("")
            first = self.board.get(0)
            self._count(passed, [first.looks if first else 0])
            if self._quiet >= self.limit:
                self._end(f"rank 0 has not answered for {self._quiet:.0f} s")
            return
        signs = [self.board.get(rank) for rank in range(self.board.ranks)]
        self._count(passed, [sign.number if sign else 0 for sign in signs])
        begun = any(sign.begun for sign in signs if sign)
        if self._quiet >= self.limit * (1 if begun else START):
            self.board.end()
            self._end(f"no rank has given a sign of life for {self._quiet:.0f} s:\n{sign_table(signs)}")

    def _count(self, passed: float, seen: Sequence[int]) -> None:
        """Counts the seconds in which nothing has changed."""
        self._quiet = 0.0 if seen != self._seen else self._quiet + passed
        self._seen = list(seen)

    def _end(self, why: str) -> NoReturn:
        """Ends this process, whose main thread may be inside a collective, which no exception ends."""
        if why:
            log.error("%s\nthe run ends; --ckpt_path last goes on from the last checkpoint", why)
        self._end_workers()
        if self.rank == 0:
            self.done.wait(2 * self.interval + 1)  # the others read that they shall end
            if self.children is not None:
                self.children.kill(signal.SIGKILL)
        elif os.environ.get(LAUNCHER) == str(os.getppid()):
            if why:
                os.kill(os.getppid(), signal.SIGKILL)  # rank 0, which does not answer
            # rank 0 kills this one; if this one ended first, Lightning would kill rank 0
            self.done.wait(4 * self.interval + 10)
        sys.stdout.flush()
        os._exit(1)

    def _end_workers(self) -> None:
        """Ends the processes that load data: one that hangs would stay. If this rank waits for them, they say where."""
        workers = multiprocessing.active_children()
        if workers and self.sign.doing == "data":
            log.error("rank %d waits for its data; the processes that load them are here:", self.rank)
            for worker in workers:
                if worker.pid is not None:
                    os.kill(worker.pid, WHERE)
            time.sleep(WRITING)
        for worker in workers:
            worker.kill()
