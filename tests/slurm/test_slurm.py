"""A real SLURM cluster of two nodes: a training that is stopped in every way repeats an uninterrupted one."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # minutes
ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
SHORT = ("--nodes", "2", "--ntasks-per-node", "1", "--gpus-per-node", "1", "--cpus-per-task", "1")
CPU = ("--trainer.accelerator", "cpu", "--trainer.precision", "32-true")
STRATEGIES = {  # config of the machine, options
    "fsdp2": ("configs/trainer/fsdp2.yaml", *CPU),
    "ddp": ("configs/trainer/cpu.yaml", "--trainer.strategy", "ddp"),
}
# when the job waits to be stopped, by its number of restarts; "start" is within the imports
MOMENTS = {
    "fsdp2": {"0": ["start"], "1": ["train", 3], "2": ["val", 5], "3": ["train", 7]},
    "ddp": {"0": ["train", 3]},
}
STEPS = {  # those that each start makes
    "fsdp2": {"0": [], "1": [1, 2, 3, 4], "2": [5], "3": [6, 7, 8], "4": [9, 10]},
    "ddp": {"0": [1, 2, 3, 4], "1": [5, 6, 7, 8, 9, 10]},
}
WARNED = ("scancel", "--signal=USR1", "{job}")  # as SLURM does before the time limit
PREEMPTED = (
    "sbatch",
    *SHORT,
    "--partition",
    "high",
    "--exclusive",
    "--output",
    "/dev/null",
    "--wrap",
    "true",
)
ENDS = {"fsdp2": (WARNED, WARNED, PREEMPTED, ("scontrol", "requeue", "{job}")), "ddp": (WARNED,)}


def until(happened, what, seconds=240):
    """Waits, at most so many seconds; returns what has happened."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"after {seconds} s: {what()}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Runs a command of SLURM and returns what it prints."""
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemons of SLURM")
    search = os.environ["PATH"] + ":/usr/sbin"
    if missing := [name for name in DAEMONS if shutil.which(name, path=search) is None]:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment |= {"PATH": search, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(*command, **more):
        more = {name: str(value) for name, value in more.items()}
        done = subprocess.run(
            command, env=environment | more, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    try:
        run("bash", str(HERE / "cluster.sh"), "up", str(folder))
        yield run
    finally:
        run("bash", str(HERE / "cluster.sh"), "down", str(folder))


class Job:
    """A training of two nodes, by the project's own template."""

    def __init__(self, slurm, root, strategy, moments, **environment):
        self.slurm, self.root = slurm, root
        root.mkdir(exist_ok=True)
        (root / "moments.json").write_text(json.dumps(moments))
        machine, *options = STRATEGIES[strategy]
        environment |= {
            "CONFIG": "tests/slurm/tiny.yaml", "TRAINER": machine, "PYTHON": sys.executable,
            "PYTHONPATH": f"{ROOT}:{HERE}:{HERE / 'start'}", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": 1, "NUMBA_NUM_THREADS": 1,
        }  # fmt: skip
        arguments = ("slurm/nodes.sbatch", *options, "--trainer.default_root_dir", str(root))
        self.id = slurm(
            "sbatch", "--parsable", *SHORT, "--output", str(root / "out"), *arguments, **environment
        ).strip()

    def state(self):
        fields = self.slurm("scontrol", "show", "job", "--oneliner", self.id).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def told(self):
        """What the job has printed."""
        return (self.root / "out").read_text() if (self.root / "out").exists() else "nothing printed"

    def waits(self, *names):
        """Until these files are there."""
        until(lambda: all((self.root / name).exists() for name in names), self.told)

    def restarted(self, times):
        """Until the job has been put back into the queue so many times."""
        until(lambda: self.state()["Restarts"] == str(times), self.told)

    def done(self):
        """Until it has ended, well."""
        until(lambda: self.state()["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), self.told)
        assert self.state()["JobState"] == "COMPLETED", self.told()


def records(root, key):
    """What the ranks have written down, of each rank in its order."""
    files = [root / f"rank_{rank}.jsonl" for rank in range(2)]
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[line for line in rank if key in line] for rank in lines]


def without_restart(lines):
    return [{name: value for name, value in line.items() if name != "restart"} for line in lines]


@pytest.fixture(scope="module", params=list(STRATEGIES))
def runs(slurm, tmp_path_factory, request):
    """The strategy, the folders of a run that was left alone and of one that was stopped, and what the latter said."""
    strategy, root, whole = request.param, tmp_path_factory.mktemp(request.param), None
    moments, folder = MOMENTS[strategy], root / "stopped"
    imports = {"WAIT_IN_IMPORTS": folder / "imports"} if moments["0"] == ["start"] else {}
    stopped = Job(slurm, folder, strategy, moments, **imports)
    for restart, end in enumerate(ENDS[strategy]):
        names = "imports" if moments[str(restart)] == ["start"] else f"waits_{restart}"
        stopped.waits(f"{names}_0", f"{names}_1")
        slurm(*(part.format(job=stopped.id) for part in end))
        stopped.restarted(restart + 1)
        whole = whole or Job(slurm, root / "whole", strategy, {})
    stopped.done()
    whole.done()
    return strategy, whole.root, stopped.root, stopped.told()


def test_losses_and_samples_are_those_of_the_run_that_was_left_alone(runs):
    strategy, whole, stopped, _ = runs
    for expected, found in zip(records(whole, "step"), records(stopped, "step")):
        assert [line["step"] for line in expected] == [line["step"] for line in found] == [*range(1, 11)]
        assert without_restart(found) == without_restart(expected)
        assert len({str(line["keys"]) for line in expected}) > 5  # samples that could differ
    one, other = (load_file(root / "diffusion.safetensors") for root in (whole, stopped))
    assert one and all(torch.equal(one[name], other[name]) for name in one)
    kept = stopped / "checkpoints/last.ckpt"
    assert kept.is_dir() == (strategy == "fsdp2")
    assert [path.name for path in kept.parent.iterdir()] == ["last.ckpt"]


def test_every_start_goes_on_at_the_next_step(runs):
    strategy, _, stopped, told = runs
    for rank in records(stopped, "step"):
        steps = {restart: [x["step"] for x in rank if x["restart"] == restart] for restart in STEPS[strategy]}
        assert steps == STEPS[strategy]
    assert "SIGUSR1: stopped after step 4" in told and "Traceback" not in told
    if strategy == "ddp":
        assert told.count("goes back to the queue") == 1
        return
    for rank in records(stopped, "validates"):
        assert {line["validates"] for line in rank if line["restart"] == "2"} == {5}
        complete = [line["validates"] for line in rank if line["restart"] == "3"]
        assert len(complete) == 4 and set(complete) == {5}  # it is repeated as a whole
    assert "SIGUSR1: stopped before the first step" in told and "SIGTERM: stopped after step 5" in told
    assert "SIGTERM: stopped after step 8" in told and told.count("goes back to the queue") == 3


def test_tasks_of_an_array_share_the_shards_and_one_that_is_requeued_makes_the_rest(slurm, tmp_path):
    """Latents of the held-out shards by two tasks; the first one is told that its time is up."""
    shards, made = sorted((ROOT / "assets/small/shards").glob("*-val-*.tar")), tmp_path / "latents"
    array = slurm(
        "sbatch", "--parsable", "--array=0-1", "--gpus", "0", "--cpus-per-task", "1", "--mem", "1G",
        "--output", str(tmp_path / "task_%a"), "slurm/caches.sbatch", "latents", *map(str, shards),
        "--output", str(made), "--config", "configs/latents/small.yaml",
        DEVICE="cpu", PYTHON=sys.executable, PYTHONPATH=ROOT, OMP_NUM_THREADS=1,
    ).strip()  # fmt: skip

    def told():
        return "\n".join(path.read_text() for path in sorted(tmp_path.glob("task_*")))

    until(lambda: list(made.glob("*.tar")) or "Error" in told(), told)
    slurm("scancel", "--signal=USR1", "--batch", f"{array}_0")
    until(lambda: "DUE TO JOB REQUEUE" in told(), told)
    until(lambda: not slurm("squeue", "--noheader", "--jobs", array).strip(), told)
    assert {path.name for path in made.glob("*.tar")} == {shard.name for shard in shards}
    assert re.search(r"shards, [1-9] exist already", told()), told()
    parts = {path.name for path in made.glob("reports/*-part-*")}
    assert parts == {"latents-part-0-of-2.json", "latents-part-1-of-2.json"}
