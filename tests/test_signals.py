"""The whole program, killed: its status, its last checkpoint, and nothing half-written."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # each start takes the seconds of the imports
ROOT = Path(__file__).parents[1]
NETWORK = "--model.init_args.network.init_args"


def start(command: str, root: Path, *options: str, setup: str = "", **kwargs) -> subprocess.Popen:
    """A tiny autoencoder on the committed shards; `setup` is Python that runs before main.py."""
    arguments = [
        command, "--config", "configs/small/autoencoder.yaml", "--data", "configs/data/small_grid.yaml",
        f"{NETWORK}.width", "64", f"{NETWORK}.depth", "1", f"{NETWORK}.refinement", "0", "--data.init_args.size", "16",
        "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "100000", "--trainer.max_steps", "100000",
        "--trainer.enable_progress_bar", "false", "--data.init_args.num_workers", "1",
        "--data.init_args.val_batch_size", "1", "--trainer.default_root_dir", str(root),
        "--model.init_args.initial_weights", "[]", "--model.init_args.lr_scheduler.init_args.warmup_steps", "1",
        *options,
    ]  # fmt: skip
    code = (
        f"import runpy, sys\n{setup}\nsys.argv[0] = 'main.py'\nrunpy.run_path('main.py', run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, start_new_session=True, **kwargs,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, happened, seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert happened() and process.poll() is None, process.communicate()[0]


def status(process: subprocess.Popen) -> tuple[int, str]:
    """As a shell sees it, with what was printed."""
    printed = process.communicate(timeout=300)[0]
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, printed


@pytest.mark.parametrize("signum, code", [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138),
])  # fmt: skip
def test_a_stopped_training_has_its_status_and_goes_on(tmp_path, signum, code):
    process = start("fit", tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("pictures/*/train_static.png")))  # it trains
    os.killpg(process.pid, signum)  # as Ctrl-C does: the workers get it, too
    found, printed = status(process)
    assert found == code and "Traceback" not in printed, printed
    (step,) = re.findall(rf"{signum.name}: stopped after step (\d+) -> \S+last.ckpt", printed)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == int(step)
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("seconds, signum, code", [
    *((seconds, signum, code) for seconds in (0.3, 2.0, 4.0)
      for signum, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130))),
    (2.0, signal.SIGUSR1, 138),
])  # fmt: skip
def test_a_start_that_is_stopped_has_its_status(tmp_path, signum, code, seconds):
    process = start("fit", tmp_path)
    time.sleep(seconds)
    process.send_signal(signum)
    found, printed = status(process)
    assert (found == code or seconds < 1) and "File " not in printed, printed  # before main.py it is Python's
    if signum == signal.SIGUSR1:
        assert "SIGUSR1: stopped before the first step" in printed and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("command, signum, code", [
    *((command, signum, code) for command in ("validate", "test")
      for signum, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130))),
    ("validate", signal.SIGUSR1, 138),
])  # fmt: skip
def test_a_stopped_evaluation_has_its_status_and_leaves_nothing(tmp_path, command, signum, code):
    first = start("fit", tmp_path, "--trainer.max_steps", "2")
    assert status(first)[0] == 0
    slow = (
        "import pathlib, time\nimport lightning_modules\nC = lightning_modules.AutoencoderTraining\n"
        "step = C.validation_step\n"
        f"def slowly(self, *x):\n    pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)\n"
        "C.validation_step = C.test_step = slowly"
    )
    process = start(command, tmp_path, "--ckpt_path", "last", setup=slow)
    wait_for(process, (tmp_path / "began").exists)
    process.send_signal(signum)
    found, printed = status(process)
    assert found == code and "Traceback" not in printed, printed
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.glob("*.json"))


def test_a_second_interrupt_ends_at_once(tmp_path):
    slow = (
        "import pathlib, time\nimport lightning_modules\nC = lightning_modules.AutoencoderTraining\n"
        f"def slowly(self, *x):\n    pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)\n"
        "C.training_step = slowly"
    )
    process = start("fit", tmp_path, setup=slow)
    wait_for(process, (tmp_path / "began").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert status(process)[0] == 130 and time.monotonic() - began < 10


RANK = """
import sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests/callbacks"]
import test_last_checkpoint as runs
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
rank, stage, step, folder = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
runs.stop_by_signal()
trainer = Trainer(
    default_root_dir=folder, max_steps=8, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    val_check_interval=4, check_val_every_n_epoch=None, enable_progress_bar=False, enable_model_summary=False,
    num_sanity_val_steps=0, use_distributed_sampler=False, callbacks=[runs.LastCheckpoint()],
    plugins=[runs.WholeCheckpoints(), LightningEnvironment()],
)
runs.leave_signals_alone(trainer)
model = runs.Line((stage, step) if rank == 1 else None)
trainer.fit(model, runs.Endless(), runs.DataLoader(torch.ones(4, 3), batch_size=2))
"""


@pytest.mark.parametrize("step, saved, due", [(1, 2, False), (3, 4, True)])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path, free_port, step, saved, due):
    def rank(number: int) -> subprocess.Popen:
        shared = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port),
            "NODE_RANK": "0",
        }
        return subprocess.Popen(
            [sys.executable, "-c", RANK.format(root=str(ROOT)), str(number), "train", str(step), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(number), "RANK": str(number), **shared},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    ranks = [rank(0), rank(1)]
    assert [status(process)[0] for process in ranks] == [143, 143]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == saved
    assert checkpoint["callbacks"]["LastCheckpoint"]["validation_due"] == due
