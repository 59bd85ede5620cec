"""Faults of one of two ranks: the run ends soon, says why in one place, leaves no process and the last checkpoint."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from callbacks.checkpoint_files import read_checkpoint
from scene4d.distributed.checkpoint_folder import FILES, STATE

pytestmark = pytest.mark.slow  # each start of two ranks takes the seconds of the imports
ROOT = Path(__file__).parents[1]
STRATEGIES = ["ddp", "fsdp2"]
BOUND = 150  # seconds; the imports take most of them on a busy machine
LIMIT = 15  # seconds without a sign of life; three times as many until the first batch, which came late once
NETWORK = "--model.init_args.network.init_args"
CALLBACKS = (
    "[{class_path: callbacks.LastCheckpoint, init_args: {every_n_train_steps: 1}}, "
    f"{{class_path: callbacks.HangWatch, init_args: {{limit: '00:00:{LIMIT:02}'}}}}]"
)


def start(fault: str, folder: Path, strategy: str, **environment: str) -> tuple[int, str, float]:
    """Status and output of a tiny autoencoder's training on two ranks, and the seconds that it took."""
    arguments = [
        fault, str(folder), "fit",
        "--config", "configs/small/autoencoder.yaml", "--data", "configs/data/small_grid.yaml",
        f"{NETWORK}.width", "64", f"{NETWORK}.depth", "1", f"{NETWORK}.refinement", "0", "--data.init_args.size", "16",
        "--trainer.limit_val_batches", "0", "--trainer.max_steps", "4", "--trainer.enable_progress_bar", "false",
        "--data.init_args.num_workers", "1", "--trainer.default_root_dir", str(folder / "run"),
        "--model.init_args.initial_weights", "[]", "--model.init_args.lr_scheduler.init_args.warmup_steps", "1",
        "--trainer.callbacks", CALLBACKS, "--trainer.devices", "2", "--trainer.strategy", strategy,
    ]  # fmt: skip
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    ours = {key: value for key, value in os.environ.items() if key != "SCENE4D_LAUNCHER"}
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/faulty_ranks.py"), *arguments], cwd=ROOT,
            env=ours | settings, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        status = process.wait(timeout=BOUND)
    finally:
        process.kill()
    return status, (folder / "log").read_text(), time.monotonic() - began


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def left(folder: Path) -> list[int]:
    """Processes that are still there after a minute, which an import may take; they are then ended."""
    ids, end = [int(path.name.split("_")[1]) for path in folder.glob("pid_*")], time.monotonic() + 60
    while any(map(alive, ids)) and time.monotonic() < end:
        time.sleep(0.1)
    found = [pid for pid in ids if alive(pid)]
    for pid in found:
        os.kill(pid, 9)
    return found


def check_end(folder: Path, status: int, printed: str) -> None:
    """Both ranks have ended, with their workers, and the checkpoint of the second step is whole."""
    assert status not in (0, None), printed
    assert not left(folder), printed
    assert len(list(folder.glob("pid_*"))) >= 2
    assert (folder / "run/checkpoints/last.ckpt").exists(), printed
    kept = folder / "run/checkpoints/last.ckpt"
    assert read_checkpoint(kept, mapped=False)["global_step"] == 2, printed
    assert [path.name for path in kept.parent.iterdir()] == ["last.ckpt"]


def check_nothing_is_left(kept: Path) -> None:
    """A folder holds its state and the two files of it."""
    if kept.is_dir():
        files = torch.load(kept / STATE, weights_only=True)[FILES]
        assert sorted(path.name for path in kept.iterdir()) == sorted([STATE, *files])


@pytest.mark.parametrize("strategy, fault, doing, where", [
    ("ddp", "forward_1", "forward", "strike"), ("ddp", "forward_0", "forward", "strike"),
    ("ddp", "data_1", "data", "loader.py"),
    ("fsdp2", "forward_1", "forward", "strike"), ("fsdp2", "data_0", "data", "loader.py"),
])  # fmt: skip
def test_a_rank_that_hangs(tmp_path, strategy, fault, doing, where):
    status, printed, seconds = start(fault, tmp_path, strategy)
    check_end(tmp_path, status, printed)
    assert status == 1  # whichever rank ends first
    assert len(re.findall("no rank has given a sign of life for", printed)) == 1
    rows = {row[0]: row for row in re.findall(r"^ +(\d) +(\S+) +(\d+) +(\w+) +(\d+) +(.*)$", printed, re.M)}
    guilty = fault[-1]
    assert rows.keys() == {"0", "1"} and {row[2] for row in rows.values()} == {"2"}, printed
    assert rows[guilty][3] == doing and where in rows[guilty][5], printed
    assert all(LIMIT <= int(row[4]) <= LIMIT + 5 for row in rows.values()), printed
    assert "Traceback" not in printed
    if doing == "data":  # the line of the process that does not answer
        told = rf"^rank {guilty} waits for its data.*\n(.*\n)*? +File .*tests/faulty_ranks.py.* in faulty$"
        assert re.search(told, printed, re.M), printed


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", ["kill_0", "kill_1"])
def test_a_rank_that_dies(tmp_path, strategy, fault):
    status, printed, seconds = start(fault, tmp_path, strategy)
    check_end(tmp_path, status, printed)


@pytest.mark.parametrize("strategy, fault, why", [
    ("ddp", "full_0", "File too large"), ("ddp", "readonly_0", "Read-only file system"),
    ("fsdp2", "full_0", "File too large"), ("fsdp2", "full_1", "File too large"),
    ("fsdp2", "readonly_1", "Read-only file system"),
])  # fmt: skip
def test_a_disk_that_takes_no_checkpoint(tmp_path, strategy, fault, why):
    status, printed, seconds = start(fault, tmp_path, strategy)
    check_end(tmp_path, status, printed)
    kept = tmp_path / "run/checkpoints/last.ckpt"
    assert status == 1
    file = rf"{kept}/\w+-0000{fault[-1]}-of-00002.safetensors" if strategy == "fsdp2" else str(kept)
    assert re.search(rf"^error: '{file}': {why}$", printed, re.M), printed
    assert "Traceback" not in printed
    check_nothing_is_left(kept)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_whose_loss_is_nan(tmp_path, strategy):
    status, printed, seconds = start("nan_1", tmp_path, strategy)
    check_end(tmp_path, status, printed)
    assert status == 1
    told = r"^error: training has diverged at step \d: the loss is not finite \(rank 1: "
    assert re.search(told, printed, re.M), printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_folder_that_takes_nothing_from_the_start(tmp_path, strategy):
    status, printed, seconds = start("start_0", tmp_path, strategy)
    assert status == 1 and not left(tmp_path), printed
    assert re.search(rf"^error: '{tmp_path}/run/\S+': Read-only file system$", printed, re.M), printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_port_that_is_in_use(tmp_path, strategy):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        status, printed, seconds = start("none_0", tmp_path, strategy, MASTER_PORT=port)
        assert status == 1 and not left(tmp_path), printed
    assert re.search(rf"^error: port {port} of this machine is in use", printed, re.M), printed
    assert "Traceback" not in printed
