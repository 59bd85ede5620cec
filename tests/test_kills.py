"""Kills a run of two ranks again and again: it ends with the bits of a run that was left alone.

`KILLS=20 python -m pytest tests/test_kills.py` kills each of the runs twenty times instead of three.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from killed_ranks import ROOT, train
from safetensors.torch import load_file

from callbacks.checkpoint_files import newest_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow  # minutes
RANKS = multiprocessing.get_context(
    "forkserver"
)  # of many starts only the first one takes the time of the imports
RANKS.set_forkserver_preload(["killed_ranks"])
KILLS = int(os.environ.get("KILLS", "3"))
STEPS, BOUNDARY, VALIDATION = (
    16,
    6,
    4,
)  # the second stage begins after step 6; a validation follows every fourth
LONGEST = 900  # seconds of a start
STAGES = [{"until": BOUNDARY, "frames": 5, "lr": 1e-3}, {"until": STEPS, "frames": 9, "lr": 5e-4}]
CALLBACKS = [
    {"class_path": "callbacks.ExponentialMovingAverage", "init_args": {"decay": 0.9}},
    {"class_path": "kill_events.Events"},
    {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_n_train_steps": 1}},
    {"class_path": "callbacks.WeightsExport", "init_args": {"path": "weights.safetensors"}},
]
SETTINGS = {
    "diffusion": [
        "--config", "tests/slurm/tiny.yaml", "--stages", json.dumps(STAGES), "--model.init_args.lr_scheduler", "null",
    ],
    "reconstruction": [
        "--config", "configs/small/reconstruction_static.yaml",
        "--data", "configs/data/small_reconstruction_static.yaml", "--data.init_args.size", "32",
        "--data.init_args.batch_size", "1", "--data.init_args.val_batch_size", "1",
        "--model.init_args.lr_scheduler.init_args.warmup_steps", "2", "--trainer.limit_val_batches", "2",
    ],
}  # fmt: skip
MACHINE = [
    "--config", "configs/trainer/fsdp2.yaml", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
    "--trainer.devices", "2", "--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", str(VALIDATION),
    "--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--ckpt_path", "last",
    "--trainer.callbacks", json.dumps(CALLBACKS),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def imported():
    """The process from which ranks are forked; it knows no sys.path, and would leave out what it cannot import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
        multiprocessing.forkserver.ensure_running()
        yield


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so many seconds after it began to do something, in that step or a later one.

    "start" is the start of its processes, whatever the step. "write" is when files of the next checkpoint are there.
    """

    doing: str
    step: int
    seconds: float

    def has_come(self, events: list[tuple[str, int]]) -> bool:
        """A run that goes on behind the moment is killed three steps later."""
        doing = "save" if self.doing == "write" else self.doing
        return any(step >= self.step and (what == doing or step >= self.step + 3) for what, step in events)


def moments(number: int, seed: int) -> list[Moment]:
    """Saves, the validation, the stage's boundary, steps and starts by turns, in random steps, early ones first."""
    chance, found = random.Random(seed), []
    for kind in range(number):
        step = chance.randrange(1, STEPS - 4)
        doing, step = [
            ("write", step), ("validation", VALIDATION * chance.randint(1, 2)), ("write", BOUNDARY), ("train", step),
            ("train", BOUNDARY), ("save", step), ("start", step),
        ][kind % 7]  # fmt: skip
        longest = {"save": 0.1, "write": 0.02, "validation": 0.5, "train": 0.5, "start": 8.0}[doing]
        found.append(Moment(doing, step, chance.uniform(0, longest)))
    return sorted(found, key=lambda moment: moment.step)


def kill(ranks: list[BaseProcess]) -> None:
    """Kills ranks and the processes that load their data."""
    for rank in ranks:
        try:
            os.killpg(rank.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet, or has ended
            rank.kill()
    for rank in ranks:
        rank.join()


class Run:
    """A training of two ranks in a folder; every start of it goes on from its last checkpoint."""

    def __init__(self, folder: Path, module: str) -> None:
        self.folder, self.module = folder, module
        self.checkpoint = folder / "checkpoints/last.ckpt"
        folder.mkdir()

    def start(self) -> list[BaseProcess]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.events = self.folder / f"events_{len(list(self.folder.glob('events_*')))}"
        self.events.touch()
        root = ["--trainer.default_root_dir", str(self.folder)]
        arguments = ["fit", *SETTINGS[self.module], *MACHINE, *root]
        given = (port, str(self.folder / "log"), str(self.events), arguments)
        ranks = [RANKS.Process(target=train, args=(rank, *given)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        return ranks

    def happened(self) -> list[tuple[str, int]]:
        lines = self.events.read_text().splitlines(keepends=True)
        words = [line.split() for line in lines if line.endswith("\n")]
        return [(what, int(step)) for what, step in words]

    def killed(self, moment: Moment) -> None:
        """Starts it, and kills all of its processes at that moment."""
        left, ranks, end = self.unfinished(), self.start(), time.monotonic() + LONGEST
        try:
            while moment.doing != "start" and not moment.has_come(self.happened()):
                assert all(rank.is_alive() for rank in ranks) and time.monotonic() < end, self.told()
                time.sleep(0.002)
            while (
                moment.doing == "write"
                and self.unfinished() <= left
                and all(rank.is_alive() for rank in ranks)
            ):
                time.sleep(0.0005)
            time.sleep(moment.seconds)
        finally:
            kill(ranks)

    def ended(self) -> None:
        """Starts it, and waits until it has ended well."""
        ranks = self.start()
        try:
            for rank in ranks:
                rank.join(LONGEST)
            assert [rank.exitcode for rank in ranks] == [0, 0], self.told()
        finally:
            kill(ranks)

    def saved(self) -> int:
        """The step of its checkpoint, which must be whole."""
        found = newest_checkpoint([self.checkpoint.parent]) if self.checkpoint.parent.exists() else None
        assert found in (None, self.checkpoint)
        return 0 if found is None else read_checkpoint(found, mapped=False)["global_step"]

    def unfinished(self) -> set[str]:
        """Names of temporary files in the checkpoint's folder: of a save, and left by kills."""
        return {path.name for path in self.checkpoint.glob(".*.tmp")}

    def left(self) -> str:
        """What the kill has left unfinished in the checkpoint."""
        names = [path.name for path in self.checkpoint.glob("*")]
        unfinished, complete = (
            sum(x.endswith(".tmp") for x in names),
            sum(x.endswith(".safetensors") for x in names),
        )
        return f"{complete} files of ranks and {unfinished} unfinished files"

    def told(self) -> str:
        return (self.folder / "log").read_text()


def tensors(tree: object, name: str = "") -> Iterator[tuple[str, object]]:
    """All tensors and numbers of nested lists and dictionaries, with their names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors(value, f"{name}/{key}")
    elif isinstance(tree, (list, tuple)):
        for number, value in enumerate(tree):
            yield from tensors(value, f"{name}/{number}")
    else:
        yield name, tree


def compared(checkpoint: Path) -> dict[str, object]:
    """What a run goes on from: weights, optimizer, schedule, averages and the place in the data."""
    content = read_checkpoint(checkpoint, mapped=False)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "SceneDataModule", "global_step")
    return dict(tensors({part: content[part] for part in parts if part in content}))


@pytest.mark.parametrize("module", list(SETTINGS))
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_left_alone(tmp_path, module, capsys):
    whole, killed = Run(tmp_path / "whole", module), Run(tmp_path / "killed", module)
    whole.ended()
    step = 0
    for number, moment in enumerate(moments(KILLS, seed=len(module))):
        killed.killed(moment)
        before, step = step, killed.saved()
        assert step >= before, killed.told()
        with capsys.disabled():
            print(f"{module}: kill {number + 1} {moment}: step {step} is saved; {killed.left()}", flush=True)
    killed.ended()
    assert len(list(killed.checkpoint.iterdir())) == 3  # two ranks and the state: nothing that kills left
    one, other = (load_file(run.folder / "weights.safetensors") for run in (whole, killed))
    assert one and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    one, other = (compared(run.checkpoint) for run in (whole, killed))
    assert one["/global_step"] == STEPS and one.keys() == other.keys()
    different = [
        name for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name])
    ]  # fmt: skip
    assert not different
    assert killed.told().count("Traceback") == 0
