"""Starts a script of the tests as several ranks, as a launcher outside of Lightning does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_ranks(count, folder, line):
    """Runs `python LINE` as so many ranks, in a folder; fails with the end of what a failing rank has printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0",
              "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, *line], cwd=folder,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=500)
            assert process.returncode == 0, printed[-4000:]
    finally:
        for process in processes:
            process.kill()
