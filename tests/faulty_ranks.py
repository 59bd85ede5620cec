"""The command line of the project with a fault in it; `test_faulty_ranks.py` starts it, and Lightning starts it again.

    python tests/faulty_ranks.py FAULT_RANK FOLDER fit --config ...

FAULT strikes in the third step of rank RANK, or before the run with `start`; the rank then has a complete checkpoint of
two steps. Every rank and every process that loads its data writes its process id into FOLDER.

    forward    its training step never ends
    data       the process that loads its data never answers
    kill       it is killed
    full       no file can grow beyond 1 kB
    readonly   no file can be written
    nan        its loss is NaN
    start      no file can be written from the beginning
    none       nothing
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

fault, _, rank = sys.argv[1].partition("_")
folder, struck = Path(sys.argv[2]), os.environ.get("LOCAL_RANK", "0") == rank


def note_process() -> None:
    (folder / f"pid_{os.getpid()}").touch()


note_process()  # the imports take long

import torch  # noqa: E402

import lightning_modules  # noqa: E402
from datamodules import mixture  # noqa: E402
from main import run  # noqa: E402

STEP = 2  # complete steps before the fault


def refuse_writing() -> None:
    """As a read-only file system does: root may write into every folder whose permissions forbid it."""
    opened = os.open

    def refusing(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(folder) in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **options)

    os.open = refusing


def strike() -> None:
    if fault == "forward":
        time.sleep(1000)
    elif fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    elif fault == "readonly":
        refuse_writing()


def with_faulty_step() -> None:
    step = lightning_modules.AutoencoderTraining.training_step

    def faulty(self, batch, index):
        if self.global_step == STEP and struck:
            strike()
        loss = step(self, batch, index)
        return loss * float("nan") if self.global_step == STEP and struck and fault == "nan" else loss

    lightning_modules.AutoencoderTraining.training_step = faulty


def with_faulty_data() -> None:
    batches = mixture.MixedBatches.__iter__

    def faulty(self):
        note_process()
        for number, batch in enumerate(batches(self)):
            if number == STEP and struck and fault == "data":
                time.sleep(1000)
            yield batch

    mixture.MixedBatches.__iter__ = faulty


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with_faulty_step()
    with_faulty_data()
    if fault == "start" and struck:
        refuse_writing()
    run(sys.argv[3:])
