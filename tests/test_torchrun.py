"""torchrun on two processes: a group that it starts again goes on exactly, and SIGTERM saves before all end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # minutes
ROOT = Path(__file__).parents[1]
MOMENTS = {
    "0": ["kill", 6],
    "1": ["train", 7],
}  # by the number of restarts: one rank is killed, then both wait


def start(root, moments):
    root.mkdir(exist_ok=True)
    (root / "moments.json").write_text(json.dumps(moments))
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
        "main.py", "fit", "--config", "tests/slurm/tiny.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp",
        "--ckpt_path", "last", "--trainer.default_root_dir", str(root),
    ]  # fmt: skip
    # without it the second start finds the addresses of the first one (docs/cluster.md)
    new = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    threads = {
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/slurm'}",
    }
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SCENE4D"))
    }
    with (root / "out").open("ab") as out:
        return subprocess.Popen(
            line, cwd=ROOT, env=environment | threads | new, stdout=out, stderr=subprocess.STDOUT
        )


def end(process, root):
    """Its status, at the latest after some minutes."""
    try:
        return process.wait(timeout=200)
    finally:
        process.kill()
        print((root / "out").read_text())


def losses(root, rank):
    """Loss and keys of every step, each of which must be the same however often it was made."""
    found = {}
    for line in map(json.loads, (root / f"rank_{rank}.jsonl").read_text().splitlines()):
        if "step" in line:
            value = (line["loss"], line["keys"])
            assert found.setdefault(line["step"], value) == value
    return found


def test_a_group_that_was_started_again_and_one_that_was_stopped_go_on_exactly(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    alone, process = start(whole, {}), start(stopped, MOMENTS)
    deadline = time.monotonic() + 300
    while not all((stopped / f"waits_1_{rank}").exists() for rank in range(2)):
        assert process.poll() is None and time.monotonic() < deadline, (stopped / "out").read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert end(process, stopped) != 0
    assert "SIGTERM: stopped after step 8" in (stopped / "out").read_text()
    assert end(start(stopped, {}), stopped) == end(alone, whole) == 0
    for rank in range(2):
        assert losses(stopped, rank) == losses(whole, rank) and len(losses(whole, rank)) == 10
    one, other = (load_file(root / "diffusion.safetensors") for root in (whole, stopped))
    assert one and all(torch.equal(one[name], other[name]) for name in one)
