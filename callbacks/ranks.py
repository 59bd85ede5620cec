"""Lets the processes of a run begin as one training and end together."""

from __future__ import annotations

import logging
import os
import threading

import lightning as L
import torch.distributed

log = logging.getLogger(__name__)

LAUNCHER = "SCENE4D_LAUNCHER"  # in the environment: the process that started, or will start, the others


def lost_rank(error: BaseException) -> bool:
    """Whether an error only says that another rank has ended, which reports the cause itself."""
    return isinstance(error, torch.distributed.DistNetworkError) or "by peer" in str(error)


class OneEnd(L.Callback):
    """Ends every process of a run when another one dies, and none before all are done.

    A process that was started by rank 0, or by torchrun, ends within a second after that one has died: it might
    otherwise wait in a collective until that times out, after 30 minutes. Lightning sees to the other direction: rank
    0 ends all within 5 seconds after one of those that it has started ended with an error. torchrun does so at once.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._done = threading.Event()
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ[LAUNCHER] = str(os.getpid())  # those that it starts inherit it, and count from 1
        elif (rank_zero := _launched_by()) is not None:  # it may fail before all have found each other
            self._begin(rank_zero)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begins to watch the process that has started this one, if that is another rank or torchrun."""
        launched = os.environ.get(LAUNCHER) == str(os.getppid()) or "TORCHELASTIC_RUN_ID" in os.environ
        if trainer.world_size > 1 and launched:
            self._begin(os.getppid())

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Waits for the other ranks, which may still write their scenes: who calls `predict` may read them all."""
        if trainer.world_size > 1:
            trainer.strategy.barrier("end")
        self._done.set()

    def _begin(self, parent: int) -> None:
        self._done.set()  # an earlier watch ends
        self._done = threading.Event()
        threading.Thread(target=self._watch, args=(parent, self._done), daemon=True).start()

    def _watch(self, parent: int, done: threading.Event) -> None:
        while not done.wait(self.interval):
            if os.getppid() != parent:
                log.warning("rank 0 or torchrun, which has started this process, is gone: it ends, too")
                os._exit(1)  # the main thread may be inside a collective, which no exception ends


def _launched_by() -> int | None:
    """The process of rank 0, if it has started this one; it may have ended since."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    if launcher != str(os.getppid()):
        try:
            os.kill(int(launcher), 0)
        except ProcessLookupError:
            return int(launcher)
        return None
    return int(launcher)
