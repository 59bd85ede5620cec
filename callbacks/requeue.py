"""Puts a SLURM job whose training was stopped back into the queue; when it starts again, it goes on where it was."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scene4d.interruption import WARNING, Interrupted, defer, wait_for_another

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that other ranks leave to rank 0
SCONTROL_SECONDS = 30.0  # SLURM answers within a second; if it does not, the job must still end
RESTARTS = 3  # of jobs that SIGUSR1 has reached before their first step


@contextmanager
def back_to_the_queue(arguments: Sequence[str]) -> Iterator[None]:
    """Asks SLURM to run this job again if what is within was stopped by SIGUSR1 or SIGTERM.

    Outside of SLURM nothing is done. A job goes back only if it was told to go on from its last checkpoint, and runs:
    one that was cancelled stays away, and one that SLURM itself requeues needs no help.

    Args:
        arguments: The arguments of `main.py`.

    Raises:
        Interrupted: The training was stopped.
    """
    try:
        yield
    except Interrupted as end:
        job = os.environ.get("SLURM_JOB_ID")
        if job and arguments[:1] == ["fit"] and end.signum != signal.SIGINT:
            _requeue(job, end, _goes_on(arguments))
        raise


def _requeue(job: str, end: Interrupted, goes_on: bool) -> None:
    """Rank 0 does it, or after a while another rank: rank 0 may be waiting for ranks that have ended."""
    defer(True)  # SLURM sends SIGTERM to a job that it requeues, and srun when another rank has ended
    if _rank() and (end.after is not None or wait_for_another(PATIENCE)):
        return
    try:
        why = _objection(_fields(_scontrol("show", "job", "--oneliner", job)), end, goes_on)
        if why is None:
            _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"scontrol failed ({_reason(error)}); submit it again, and it goes on from its last checkpoint"
    if why is None:
        log.info("SLURM job %s goes back to the queue", job)
    else:
        log.warning("SLURM job %s does not go back to the queue: %s", job, why)


def _objection(state: dict[str, str], end: Interrupted, goes_on: bool) -> str | None:
    """Why a job must not be requeued; None if it may.

    Args:
        state: What SLURM says of the job.
        end: How its training ended.
        goes_on: Whether it would go on from its last checkpoint.
    """
    preempted = state.get("PreemptTime", "None") != "None"
    if state.get("JobState") != "RUNNING":  # cancelled or out of time, or SLURM requeues it
        return f"it is {state.get('JobState', 'unknown')} already"
    if state.get("BatchFlag") != "1" or state.get("Requeue") != "1":
        return "it was not submitted by `sbatch --requeue`"
    if not goes_on:
        return "without `--ckpt_path last` it would begin anew"
    if end.signum == signal.SIGTERM and end.after is None and not preempted:
        return "SIGTERM came before or between its steps, as after the death of another rank"
    if end.signum == WARNING and end.after == 0 and int(state.get("Restarts", 0)) >= RESTARTS:
        return f"SIGUSR1 came before its first step, after {RESTARTS} restarts; is --time longer than --signal says?"
    return None


def _goes_on(arguments: Sequence[str]) -> bool:
    given = [*zip(arguments, arguments[1:]), *(argument.split("=", 1) for argument in arguments)]
    values = [value for name, *value in given if name == "--ckpt_path" and value]
    return bool(values) and values[-1] == ["last"]


def _rank() -> int:
    """The rank of this process, also where no process group exists: torchrun's or that of the job step."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _scontrol(*arguments: str) -> str:
    return subprocess.run(
        ["scontrol", *arguments], check=True, capture_output=True, text=True, timeout=SCONTROL_SECONDS
    ).stdout


def _fields(text: str) -> dict[str, str]:
    """`JobId=3 JobState=RUNNING ...` -> {"JobId": "3", "JobState": "RUNNING", ...}."""
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    """What went wrong in one line: SLURM's own words, where it has said something."""
    said = getattr(error, "stderr", None)
    return " ".join(str(said or error).split())
