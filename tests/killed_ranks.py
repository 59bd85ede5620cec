"""One rank of a training, in a process that is forked from one that has imported everything already."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

from main import run

ROOT = Path(__file__).parents[1]


def train(rank: int, port: int, log: str, events: str, arguments: list[str]) -> None:
    """What `main.py` does with these arguments as one of two ranks that torchrun has started.

    Args:
        rank: 0 or 1.
        port: Where the ranks find each other.
        log: The file to which all output goes.
        events: The file of `kill_events.Events`.
        arguments: Those of `main.py`.
    """
    os.setsid()  # a kill of the group takes the processes that load data, too
    os.environ.update({
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "kills", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "EVENTS": events,
    })  # fmt: skip
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv, sys.path[:0] = ["main.py", *arguments], [str(ROOT / "tests"), str(ROOT / "tests/slurm")]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run(arguments)
