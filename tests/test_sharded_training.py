"""FSDP2 and DDP on 2 and 4 ranks train as one device does, and go on from each other's checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # processes import everything
ROOT = Path(__file__).parents[1]
KINDS = ("diffusion", "reconstruction")
STEPS = 20


def train(ranks, folder, *cases):
    """Runs the cases of `sharded_cases.py` on so many ranks, one after the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0",
              "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # fmt: skip
    line = [sys.executable, str(ROOT / "tests/sharded_cases.py"), str(folder), *map(json.dumps, cases)]
    processes = [
        subprocess.Popen(
            line, cwd=folder, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=500)
            assert process.returncode == 0, printed[-4000:]
    finally:
        for process in processes:
            process.kill()


def found(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def case(name, kind, strategy, steps=STEPS, **more):
    return {"name": name, "kind": kind, "strategy": strategy, "steps": steps, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trainings with clipping, accumulation, averages and selective checkpointing, those of 1 and 2 ranks compiled."""
    folder = tmp_path_factory.mktemp("ranks")
    more = {"checkpointing": "selective"}
    train(1, folder, *(case(f"{kind}_auto_1", kind, "auto", **more, compile=True) for kind in KINDS))
    for ranks in (2, 4):
        options = {**more, "compile": ranks == 2}
        train(ranks, folder, *(
            case(f"{kind}_{strategy}_{ranks}", kind, strategy, **options, saved=f"{kind}_{strategy}_{ranks}.ckpt")
            for kind in KINDS for strategy in ("ddp", "fsdp2")
        ))  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy, ranks", [("ddp", 2), ("ddp", 4), ("fsdp2", 2), ("fsdp2", 4)])
def test_many_ranks_train_as_one(folder, kind, strategy, ranks):
    one, many = found(folder, f"{kind}_auto_1"), found(folder, f"{kind}_{strategy}_{ranks}")
    assert len(one["losses"]) == STEPS
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert many["averages"] == pytest.approx(one["averages"], rel=1e-5)


@pytest.fixture(scope="module")
def resumed(folder):
    """From 2 ranks on to 2, 1 and 4; from 1 rank back to 2; from ddp to fsdp2 and back."""
    for kind in KINDS:

        def go(ranks, name, strategy, source, until, kind=kind, folder=folder):  # fmt: skip
            train(ranks, folder, case(f"{kind}_{name}", kind, strategy, until, saved=f"{kind}_{name}.ckpt",
                                      resumed=source and str(folder / f"{kind}_{source}.ckpt")))  # fmt: skip

        train(2, folder, case(f"{kind}_whole", kind, "fsdp2", 8),
              case(f"{kind}_begun", kind, "fsdp2", 4, saved=f"{kind}_begun.ckpt"))  # fmt: skip
        go(2, "again", "fsdp2", "begun", 8)
        go(1, "alone", "auto", "begun", 6)
        go(2, "back", "fsdp2", "alone", 8)
        go(4, "more", "fsdp2", "begun", 8)
        go(2, "copies", "ddp", "begun", 8)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_on_as_many_ranks_repeats_every_bit(resumed, kind):
    whole, again = found(resumed, f"{kind}_whole"), found(resumed, f"{kind}_again")
    assert again["losses"] == whole["losses"][4:]
    assert again["digest"] == whole["digest"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, first", [("alone", 4), ("back", 6), ("more", 4), ("copies", 4)])
def test_runs_go_on_on_any_number_of_ranks(resumed, kind, name, first):
    whole, other = found(resumed, f"{kind}_whole"), found(resumed, f"{kind}_{name}")
    last = first + len(other["losses"])
    assert other["losses"] == pytest.approx(whole["losses"][first:last], rel=1e-5) and last > first
    if last == 8:
        assert other["averages"] == pytest.approx(whole["averages"], rel=1e-5)
