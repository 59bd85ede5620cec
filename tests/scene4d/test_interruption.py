"""SIGUSR1 waits for a good moment, and leaves alone what the process has started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = f"import os, signal, subprocess, sys, threading, time\nsys.path.insert(0, {str(ROOT)!r})\n"
BEGIN += "from scene4d import interruption\n"
KILL = "os.kill(os.getpid(), signal.SIGUSR1)\n"


def run(code):
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code, status", [
    ("interruption.stop_by_signal()\n" + KILL + "time.sleep(0.1)", 0),  # nobody asks
    ("interruption.stop_by_signal()\n" + KILL + "interruption.defer(False)", 138),
    ("interruption.stop_by_signal()\ninterruption.defer(False)\n" + KILL + "time.sleep(9)", 138),  # in a validation
    ("interruption.stop_by_signal()\ninterruption.defer(True)\n" + KILL + "interruption.stop()", 138),
    ("interruption.stop_by_signal()\n" + KILL + "interruption.outlive_warning()\ninterruption.defer(False)", 0),
    ("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\nos.kill(os.getpid(), signal.SIGTERM)\n"
     "interruption.stop_by_signal()", 143),  # as main.py does during its imports
    ("signal.signal(signal.SIGUSR1, signal.SIG_IGN)\ninterruption.stop_by_signal()\n" + KILL
     + "assert interruption.asked() == signal.SIGUSR1", 0),  # of a script that protects torchrun
])  # fmt: skip
def test_a_warning_ends_the_process_when_it_may(code, status):
    found, _, told = run(code)
    assert found == status and "Traceback" not in told, told


def test_a_warning_is_no_signal_before_it_has_an_effect():
    code = "interruption.stop_by_signal()\ninterruption.defer(True)\n" + KILL
    code += "print(interruption.asked(), interruption.received())\nos.kill(os.getpid(), signal.SIGTERM)\n"
    assert run(code + "print(interruption.asked(), interruption.received())")[1].split() == [
        "10",
        "None",
        "15",
        "15",
    ]


def test_a_warning_that_another_thread_receives_waits_too():
    code = (
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\ninterruption.stop_by_signal()\n"
        + KILL
    )
    code += "time.sleep(0.2)\nassert interruption.asked() == signal.SIGUSR1\n"
    assert run(code)[0] == 0
    assert run(code + "interruption.defer(False)")[0] == 138


def test_programs_that_are_started_outlive_a_warning():
    """SLURM sends it to all processes of a job: pipes of data, for example."""
    code = "interruption.stop_by_signal()\nchild = subprocess.Popen(['sleep', '1'])\ntime.sleep(0.3)\n"
    code += "child.send_signal(signal.SIGUSR1)\nsys.exit(child.wait())"
    assert run(code)[0] == 0


def test_a_process_that_loads_data_and_its_pipes_outlive_a_warning():
    code = "interruption.stop_by_signal()\ninterruption.defer(False)\n"
    code += "if (pid := os.fork()) == 0:\n    interruption.spare_worker(0)\n"
    code += "    child = subprocess.Popen(['sleep', '0.5'])\n    time.sleep(0.2)\n"
    code += "    child.send_signal(signal.SIGUSR1)\n    " + KILL + "    os._exit(child.wait())\n"
    code += "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    assert run(code)[0] == 0


def test_a_process_and_those_that_it_forks_say_where_they_are():
    code = "interruption.stop_by_signal()\ndef here():\n    os.kill(os.getpid(), signal.SIGUSR2)\n    time.sleep(0.1)\n"
    code += "here()\nif (pid := os.fork()) == 0:\n    here()\n    os._exit(7)\n"
    code += "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    status, _, told = run(code)
    assert status == 7 and told.count(" in here") == 2, told


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_process_that_loads_data_ends_when_the_training_is_killed():
    """It holds the standard output open, whose end is waited for here."""
    code = "if os.fork() == 0:\n    interruption.spare_worker(0)\n    time.sleep(60)\n"
    code += "time.sleep(0.5)\nos.kill(os.getpid(), signal.SIGKILL)"
    began = time.monotonic()
    assert run(code)[0] == -9
    assert time.monotonic() - began < 30


def test_the_end_of_a_worker_does_not_take_the_place_of_the_interruption():
    """torch raises when a worker is gone, wherever the main process is: it must not while this one comes to its end."""
    code = (
        "from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler\n_set_SIGCHLD_handler()\n"
    )
    code += (
        "interruption.stop_by_signal()\nsignal.getsignal(signal.SIGCHLD) is signal.SIG_DFL and os._exit(1)\n"
    )
    code += "try:\n    interruption.stop()\nfinally:\n"
    code += "    signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL or os._exit(2)"
    assert run(code)[0] == 143


@pytest.mark.parametrize("job", [False, True])
def test_signals_during_the_imports_of_main_wait(tmp_path, job):
    """`main.py` blocks them in its first lines: a module that it imports then sends them."""
    (tmp_path / "lightning.py").write_text(
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "if 'SLURM_JOB_ID' in os.environ:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.stdout.write(','.join(sorted(s.name for s in signal.sigpending())))\nsys.stdout.flush()\nos._exit(0)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment |= {"PYTHONPATH": str(tmp_path)} | ({"SLURM_JOB_ID": "7"} if job else {})
    began = time.monotonic()
    code = f"import runpy; runpy.run_path({str(ROOT / 'main.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ("SIGTERM,SIGUSR1" if job else "SIGUSR1"), done.stderr
    assert time.monotonic() - began < 30
