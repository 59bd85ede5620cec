"""Processes of one run: none is left behind, all wait for the last, and what would train apart is refused."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed

from callbacks.endings import line_of
from callbacks.ranks import LAUNCHER, _launched_by, lost_rank

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill_0", "kill_1", "raise_1"])
def test_when_one_rank_dies_all_end(tmp_path, mode):
    line = [sys.executable, str(ROOT / "tests" / "dying_ranks.py"), mode, str(tmp_path)]
    # as if a run in the process that starts this one had left its mark
    environment = {**os.environ, "OMP_NUM_THREADS": "1", LAUNCHER: str(os.getpid())}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert process.wait(timeout=180) != 0
        end, ids = time.monotonic() + 20, [int(path.read_text()) for path in tmp_path.glob("pid_*")]
        while any(map(alive, ids)) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(ids) == 2 and not any(map(alive, ids))
        assert (tmp_path / "waited").exists(), (
            tmp_path / "log"
        ).read_text()  # for the late prediction of rank 1
    finally:
        for path in tmp_path.glob("pid_*"):
            if alive(int(path.read_text())):
                os.kill(int(path.read_text()), 9)
        process.wait()


@pytest.mark.parametrize("text, lost", [
    ("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711", True), ("shapes differ", False),
])  # fmt: skip
def test_an_error_that_only_says_that_another_rank_has_ended(text, lost):
    assert lost_rank(RuntimeError(text)) is lost


def test_a_port_in_use_is_no_lost_rank():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(torch.distributed.DistNetworkError) as error:
            torch.distributed.TCPStore("127.0.0.1", port, is_master=True)
    assert line_of(error.value) == (
        f"port {port} of this machine is in use by another program: set MASTER_PORT to a free one"
    )


def test_who_has_started_a_rank(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv(LAUNCHER, raising=False)
    assert _launched_by() is None
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    assert _launched_by() == os.getppid()
    monkeypatch.setenv(LAUNCHER, str(os.getpid()))  # it lives, but has not started this process
    assert _launched_by() is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setenv(LAUNCHER, str(ended.pid))  # rank 0 failed while this process was still importing
    assert _launched_by() == ended.pid
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # torchrun ends its processes itself
    assert _launched_by() is None
