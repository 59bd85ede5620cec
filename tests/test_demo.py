"""make demo after an interruption: what is complete stays, what is not goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from main import main

ROOT = Path(__file__).parent.parent


def trainings() -> list[str]:
    """The arguments of the trainings that `make demo` would start."""
    command = ["make", "-n", "-B", "-o", ".venv/.installed", f"PY={sys.executable}", "demo"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return re.findall(r"main\.py (fit .+?)(?: > .*)?$", shown.replace("\\\n", ""), re.MULTILINE)


def test_trainings_save_often_enough_to_go_on(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["main.py"])
    assert len(trainings()) == 4
    for training in trainings():
        with pytest.raises(SystemExit):
            main([*shlex.split(training), "--print_config"])
        callbacks = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
        saves = [c["init_args"] for c in callbacks if c["class_path"].endswith(".LastCheckpoint")]
        assert [save["train_time_interval"] for save in saves] == ["0:00:30"]
        assert "--ckpt_path last" in training


def make(*arguments: str) -> subprocess.Popen:
    """make, as a user starts it, with what is installed here."""
    command = ["make", "-o", ".venv/.installed", f"PY={sys.executable}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow  # trains for half a minute, until the first checkpoint
def test_a_killed_training_goes_on(tmp_path):
    target, last = (
        tmp_path / "diffusion_stage1/diffusion.safetensors",
        "diffusion_stage1/checkpoints/last.ckpt",
    )
    killed = make(f"DEMO={tmp_path}", "STEPS_1=10000", str(target))
    deadline = time.monotonic() + 600
    while not (tmp_path / last).exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not target.exists()
    step = torch.load(tmp_path / last, weights_only=False, map_location="cpu")["global_step"]
    steps = max(step + 1, 11)  # more than the warmup, on however slow a machine
    again = make(f"DEMO={tmp_path}", f"STEPS_1={steps}", str(target))
    printed = again.communicate(timeout=600)[0]
    assert again.returncode == 0 and f"goes on after step {step}, from {tmp_path / last}" in printed
    with safe_open(str(target), "pt") as file:
        assert file.metadata()["step"] == str(steps)
