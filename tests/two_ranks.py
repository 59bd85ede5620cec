"""Runs command lines, one after another, as one of several ranks; `test_two_ranks.py` starts it.

    python tests/two_ranks.py CASES.json FOLDER

CASES.json is a list of argument lists of `main`. Rank r writes the outcomes into `FOLDER/rank_r.json`: null, or the
error's class and message. All cases share one pair of processes, because importing takes far longer than a case.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist

from main import main


class LossOfOneRank(L.Callback):
    """Makes the loss of rank 1 NaN in the second step and leaves its gradient finite."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_rank == 1 and trainer.global_step == 1:
            loss.data.fill_(float("nan"))


def outcome(args: list[str]) -> list[str] | None:
    """The error that ends a command line, if one does."""
    try:
        main(args)
    except (Exception, SystemExit) as error:
        return [type(error).__name__, str(error)]
    return None


def run(cases: list[list[str]], folder: Path) -> None:
    """Runs the cases; between them, both ranks wait for each other."""
    rank, found = int(os.environ["RANK"]), []
    for args in cases:
        start = time.perf_counter()
        found.append(outcome(args))
        (folder / f"rank_{rank}.json").write_text(json.dumps(found))
        sys.stdout.write(f"rank {rank}: {time.perf_counter() - start:.1f} s, {args[:3]} {found[-1]}\n")
        sys.stdout.flush()
        dist.barrier()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    sys.argv = ["main.py"]
    run(cases, folder)
