"""SIGTERM, SIGINT and SIGUSR1: training stops at the end of its step, everything else at once, with the shell's status.

SIGUSR1 is what SLURM sends some minutes before the time limit (`sbatch --signal=USR1@300`). It can wait, and so it is
blocked from the first line of `main.py` on, and asked for between optimizer steps: unlike a handler, that also
protects the processes that are started meanwhile, such as pipes of data and compilers, to which SLURM sends it, too.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

WARNING = signal.SIGUSR1
WHERE = signal.SIGUSR2  # a process then prints the lines that its threads are in, and goes on
SIGNAL_OF_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2): what a process receives when its parent has ended
SIGNALS = (signal.SIGTERM, signal.SIGINT, WARNING)


class Interrupted(SystemExit):
    """Ends the process without a traceback, with status 128 + signal: SIGTERM 143, SIGINT 130, SIGUSR1 138.

    Args:
        signum: The signal.
        after: Number of optimizer steps that this process has made, if all ranks end here and what they did is saved;
            None if this process ends alone.
    """

    def __init__(self, signum: int, after: int | None = None) -> None:
        super().__init__(128 + signum)
        self.signum, self.after = signum, after


class _Interruption:
    """What this process has received, and whether it waits for a good moment to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.count = 0
        self.deferred = False
        self.process: int | None = (
            None  # forked workers inherit the handler, but leave stopping to their parent
        )

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return
        first = asked() is None
        self.count, self.signum = self.count + 1, self.signum or signum
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a second Ctrl-C ends at once, whatever the process does
        if not (self.deferred or (signum == WARNING and _is_blocked())):
            _end(self.signum)
        if first:
            log.info("%s: stops after this step; Ctrl-C ends at once", signal.Signals(signum).name)


_state = _Interruption()


def _is_blocked() -> bool:
    """Whether SIGUSR1 waits in this thread; one that does not block it may have received it in its place."""
    return WARNING in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def stop_by_signal() -> None:
    """From now on SIGTERM and SIGINT raise `Interrupted`, at once or, after `defer(True)`, when it is asked for.

    SIGUSR1 does so after `defer(False)` alone, and SIGTERM may have been blocked until now. A second SIGINT kills the
    process. At SIGUSR2 the process prints the lines that it is in and goes on, and so do those that it forks. Signals
    that are ignored, as SIGINT is in the background of a script, stay so, but for SIGUSR1, which a script ignores so
    that torchrun survives it.

    Raises:
        Interrupted: SIGTERM has arrived while it was blocked.
    """
    _state.signum, _state.count, _state.deferred, _state.process = None, 0, False, os.getpid()
    faulthandler.register(WHERE, file=2)
    signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})
    for signum in SIGNALS:
        if signum == WARNING or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _state.handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def defer(deferred: bool) -> None:
    """Whether a signal waits until `stop` is called, so that what is being written is completed.

    Raises:
        Interrupted: A signal has waited, and none shall wait any longer.
    """
    _state.deferred = deferred
    if not deferred and _state.signum is not None:
        _end(_state.signum)
    if _state.process is not None:  # otherwise nothing handles it
        signal.pthread_sigmask(signal.SIG_BLOCK if deferred else signal.SIG_UNBLOCK, {WARNING})


def outlive_warning() -> None:
    """From now on SIGUSR1 has no effect: what is left of the run is shorter than to come back for it."""
    if _state.process is not None:
        signal.signal(WARNING, signal.SIG_IGN)
        _state.signum = None if _state.signum == WARNING else _state.signum


def stop(after: int | None = None) -> NoReturn:
    """Ends this process, because it or another rank has received a signal.

    Args:
        after: Number of optimizer steps that this process has made, if all ranks end here.

    Raises:
        Interrupted: Always.
    """
    _end(asked() or signal.SIGTERM, after)


def _end(signum: int, after: int | None = None) -> NoReturn:
    """Raises `Interrupted`, in whose place torch would raise that a DataLoader's worker has ended, too."""
    if _state.process is not None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise Interrupted(signum, after)


def wait_for_another(seconds: float) -> bool:
    """Waits for the second signal of this process, which may have come already, and lets none raise from now on.

    Args:
        seconds: The longest time to wait.

    Returns:
        Whether it has come.
    """
    defer(True)
    deadline = time.monotonic() + seconds
    while _state.count < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return _state.count > 1


def received() -> int | None:
    """The first signal that this process has received and that shall stop it; SIGUSR1 only once it has an effect."""
    return _state.signum


def asked() -> int | None:
    """The first signal that shall stop this process, a SIGUSR1 that waits included."""
    waits = _state.process is not None and WARNING in signal.sigpending()
    return _state.signum or (WARNING if waits else None)


def spare_worker(index: int) -> None:
    """Lets a process that loads data outlive the first SIGTERM and every SIGINT, as `worker_init_fn` of a DataLoader.

    SLURM and Ctrl-C send signals to all processes at once, and a training that stops after its step still needs
    its workers. They end with it; a second SIGTERM, which a DataLoader sends to workers that do not, ends them, too.
    On Linux a worker also ends when the training is killed, even if it is stuck in a file system at that time. At
    SIGUSR2 it prints where it is.

    Args:
        index: Number of the worker.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(WARNING, signal.SIG_IGN)  # the programs that it starts will ignore it, too
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    faulthandler.register(WHERE, file=2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SIGNAL_OF_PARENT, signal.SIGKILL)
