"""SIGTERM and SIGINT: training stops at the end of its step, everything else at once, with the shell's status."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """Ends the process with status 128 + signal (143 for SIGTERM, 130 for SIGINT), without a traceback."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class _Interruption:
    """What this process has received, and whether it waits for a good moment to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deferred = False
        self.process: int | None = (
            None  # forked workers inherit the handler, but leave stopping to their parent
        )

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return
        repeated, self.signum = self.signum is not None, self.signum or signum
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a second Ctrl-C ends at once, whatever the process does
        if not self.deferred:
            raise Interrupted(self.signum)
        if not repeated:
            log.info("%s: stops after this step; Ctrl-C ends at once", signal.Signals(signum).name)


_state = _Interruption()


def stop_by_signal() -> None:
    """From now on SIGTERM and SIGINT raise `Interrupted`, at once or, after `defer(True)`, when it is asked for.

    A second SIGINT kills the process. Signals that are ignored, as SIGINT is in the background of a script, stay so.
    """
    _state.signum, _state.deferred, _state.process = None, False, os.getpid()
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _state.handle)


def defer(deferred: bool) -> None:
    """Whether a signal waits until `stop_if_asked` is called, so that what is being written is completed.

    Raises:
        Interrupted: A signal has waited, and none shall wait any longer.
    """
    _state.deferred = deferred
    if not deferred and _state.signum is not None:
        raise Interrupted(_state.signum)


def stop() -> NoReturn:
    """Ends this process, because it or another rank has received a signal.

    Raises:
        Interrupted: Always.
    """
    raise Interrupted(_state.signum or signal.SIGTERM)


def received() -> int | None:
    """The first signal that this process has received and that shall stop it."""
    return _state.signum


def spare_worker(index: int) -> None:
    """Lets a process that loads data outlive the first SIGTERM and every SIGINT, as `worker_init_fn` of a DataLoader.

    SLURM and Ctrl-C send signals to all processes at once, and a training that stops after its step still needs
    its workers. They end with it; a second SIGTERM, which a DataLoader sends to workers that do not, ends them, too.

    Args:
        index: Number of the worker.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
