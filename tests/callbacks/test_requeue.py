"""Which jobs go back to the queue; `scontrol` is a script that knows one job. tests/slurm has the real one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbacks.requeue import back_to_the_queue
from scene4d import interruption
from scene4d.interruption import Interrupted

ROOT = Path(__file__).parents[2]
GOES_ON = ["fit", "--config", "a.yaml", "--ckpt_path", "last"]
RUNNING = "JobId=7 JobName=a b JobState=RUNNING BatchFlag=1 Requeue=1 Restarts=0 PreemptTime=None"
PREEMPTED = RUNNING.replace("PreemptTime=None", "PreemptTime=2026-11-27T06:08:59")
TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No signal is handled in this process, and none has come; rank 0 of a job."""
    interruption._state.__init__()
    yield
    interruption._state.__init__()


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Sets what SLURM says of the job; returns which commands it got."""
    script, log = tmp_path / "scontrol", tmp_path / "log"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.delenv("RANK", raising=False)

    def says(state, status=0):
        script.write_text(f"#!/bin/sh\necho $* >> {log}\necho '{state}'\necho 'no way' >&2\nexit {status}\n")
        script.chmod(0o755)
        return lambda: log.read_text().splitlines() if log.exists() else []

    return says


def ended(end, arguments=GOES_ON):
    with pytest.raises(Interrupted) as raised, back_to_the_queue(arguments):
        raise end
    assert raised.value is end  # the status stays


@pytest.mark.parametrize("end, state", [
    (Interrupted(USR1, after=3), RUNNING),
    (Interrupted(USR1, after=0), RUNNING),  # during the start
    (Interrupted(USR1), RUNNING),  # within a validation
    (Interrupted(TERM, after=3), RUNNING),
    (Interrupted(TERM), PREEMPTED),  # during the start or within a validation
    (Interrupted(USR1, after=1), RUNNING.replace("Restarts=0", "Restarts=9")),
])  # fmt: skip
def test_a_job_that_was_stopped_goes_back(scontrol, end, state):
    commands = scontrol(state)
    ended(end)
    assert commands() == ["show job --oneliner 7", "requeue 7"]


@pytest.mark.parametrize("end, state, why", [
    (Interrupted(TERM, after=3), RUNNING.replace("RUNNING", "CANCELLED"), "it is CANCELLED already"),
    (Interrupted(USR1, after=3), RUNNING.replace("RUNNING", "COMPLETING"), "it is COMPLETING already"),
    (Interrupted(USR1, after=3), RUNNING.replace("Requeue=1", "Requeue=0"), "sbatch --requeue"),
    (Interrupted(USR1, after=3), RUNNING.replace("BatchFlag=1", "BatchFlag=0"), "sbatch --requeue"),
    (Interrupted(TERM), RUNNING, "after the death of another rank"),
    (Interrupted(USR1, after=0), RUNNING.replace("Restarts=0", "Restarts=3"), "is --time longer"),
])  # fmt: skip
def test_a_job_stays_away_and_says_why(scontrol, caplog, end, state, why):
    commands = scontrol(state)
    ended(end)
    assert commands() == ["show job --oneliner 7"]
    assert "SLURM job 7 does not go back to the queue: " in caplog.text and why in caplog.text


@pytest.mark.parametrize("arguments, goes_on", [
    (["fit", "--ckpt_path=last"], True), (["fit", "--ckpt_path", "last"], True), (["fit"], False),
    (["fit", "--ckpt_path", "last", "--ckpt_path", "a.ckpt"], False), (["fit", "last"], False),
])  # fmt: skip
def test_a_job_that_would_begin_anew_stays_away(scontrol, caplog, arguments, goes_on):
    commands = scontrol(RUNNING)
    ended(Interrupted(USR1, after=3), arguments)
    assert ("requeue 7" in commands()) == goes_on == ("would begin anew" not in caplog.text)


@pytest.mark.parametrize("end, arguments", [
    (Interrupted(INT, after=3), GOES_ON), (Interrupted(USR1), ["predict", "--ckpt_path", "last"]),
])  # fmt: skip
def test_ctrl_c_and_other_commands_do_not_ask(scontrol, end, arguments):
    commands = scontrol(RUNNING)
    ended(end, arguments)
    assert commands() == []


def test_nothing_is_asked_outside_of_slurm_or_without_an_interruption(scontrol, monkeypatch):
    commands = scontrol(RUNNING)
    with pytest.raises(ValueError), back_to_the_queue(GOES_ON):
        raise ValueError("a mistake")
    with back_to_the_queue(GOES_ON):
        pass
    monkeypatch.delenv("SLURM_JOB_ID")
    ended(Interrupted(USR1, after=3))
    assert commands() == []


def test_other_ranks_leave_it_to_rank_0_unless_it_cannot(scontrol, monkeypatch):
    commands = scontrol(RUNNING)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setattr("callbacks.requeue.PATIENCE", 0.2)
    ended(Interrupted(USR1, after=3))
    assert commands() == []
    interruption._state.count = 2  # SLURM has requeued it, and ends its processes
    ended(Interrupted(USR1))
    assert commands() == []
    interruption._state.count = 1
    ended(Interrupted(USR1))
    assert commands()[-1] == "requeue 7"


def test_a_failure_of_scontrol_is_told_in_one_line(scontrol, caplog, monkeypatch):
    scontrol("slurm_load_jobs error", status=1)
    ended(Interrupted(USR1, after=3))
    assert "scontrol failed (no way); submit it again" in caplog.text
    monkeypatch.setenv("PATH", "/nowhere")
    ended(Interrupted(USR1, after=3))
    assert "scontrol failed ([Errno 2] No such file or directory: 'scontrol'); submit" in caplog.text


def test_an_answer_that_does_not_come_is_not_waited_for(scontrol, caplog, monkeypatch, tmp_path):
    scontrol(RUNNING)
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("callbacks.requeue.SCONTROL_SECONDS", 0.2)
    began = time.monotonic()
    ended(Interrupted(USR1, after=3))
    assert "timed out" in caplog.text and time.monotonic() - began < 20


PROGRAM = """
import os, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
from scene4d import interruption
from callbacks.requeue import back_to_the_queue
with back_to_the_queue(["fit", "--ckpt_path", "last"]):
    interruption.stop_by_signal()
    interruption.defer(True)
    os.kill(os.getpid(), signal.SIGUSR1)
    child = subprocess.run(["sleep", "0.2"])
    assert child.returncode == 0 and interruption.asked() == signal.SIGUSR1
    interruption.stop(after=2)
"""


def test_slurm_s_answer_does_not_cut_off_the_request(scontrol, tmp_path):
    """SLURM sends SIGTERM to all processes of a job that it requeues, while `scontrol requeue` still runs."""
    commands = scontrol(RUNNING)
    script = tmp_path / "scontrol"
    script.write_text(
        script.read_text().replace("exit 0", 'kill -TERM $PPID; sleep 0.3; echo "$1 done" >> log\nexit 0')
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 138 and "Traceback" not in done.stderr, done.stderr
    assert commands()[-1] == "requeue done"
