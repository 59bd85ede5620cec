"""The scripts of slurm/, with programs in place of SLURM's that note their arguments, and the commands of the docs."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_configs import printed

from preparation import captions, latents

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "slurm").glob("*.sbatch"))
DOCS = ROOT / "docs/cluster.md"
JOB = {"SLURM_JOB_ID": "70123", "SLURM_JOB_NODELIST": "n[1-6]", "SLURM_CPUS_PER_TASK": "8"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "15", "SLURM_ARRAY_TASK_COUNT": "16"}
KEPT = ("PATH", "HOME", "TMPDIR")


@pytest.fixture
def run(tmp_path):
    """Runs a script; returns its status and the arguments that reached srun or Python."""
    for name in ("srun", "python"):
        (tmp_path / name).write_text(
            f"#!/bin/bash\nprintf '%q ' \"$@\" >> {tmp_path}/log; echo >> {tmp_path}/log\n"
        )
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    for name in ("srun", "python", "scontrol"):
        (tmp_path / name).chmod(0o755)

    def script(name, *arguments, **environment):
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment = kept | JOB | {"PYTHON": str(tmp_path / "python")} | environment
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        line = ["bash", f"slurm/{name}", *arguments]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        log = tmp_path / "log"
        return done, shlex.split(log.read_text()) if log.exists() else []

    return script


def options(path):
    """The lines `#SBATCH --name=value` of a script."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name, nodes, gpus", [("one_node", 1, 8), ("nodes", 6, 8)])
def test_a_training_starts_one_process_per_gpu_and_goes_on(run, name, nodes, gpus):
    given = options(ROOT / f"slurm/{name}.sbatch")
    assert (int(given["nodes"]), int(given["ntasks-per-node"]), int(given["gpus-per-node"])) == (
        nodes,
        gpus,
        gpus,
    )
    assert given["signal"] == "USR1@300" and "requeue" in given and given["open-mode"] == "append"
    machine = {"SLURM_JOB_NUM_NODES": given["nodes"], "SLURM_NTASKS_PER_NODE": given["ntasks-per-node"]}
    done, arguments = run(f"{name}.sbatch", "--trainer.max_steps", "7", **machine)
    assert done.returncode == 0 and "70123, restart 0: n[1-6], n1:20123" in done.stdout, done.stderr
    assert arguments[0] == "--kill-on-bad-exit=1" and arguments[2:4] == ["main.py", "fit"]
    config = printed(tuple(arguments[3:]))
    assert config["trainer"]["strategy"] == "fsdp2"
    assert config["trainer"]["num_nodes"] == nodes and int(config["trainer"]["devices"]) == gpus
    assert config["trainer"]["max_steps"] == 7 and config["ckpt_path"] == "last"
    data = config["data"]["init_args"]
    assert data["global_batch"] == 96 and 96 % (nodes * gpus * data["batch_size"]) == 0


def test_config_machine_and_address_come_from_the_environment(run):
    given = {"CONFIG": "a.yaml", "TRAINER": "b.yaml", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"}
    done, arguments = run("nodes.sbatch", SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE="4", **given)
    assert "10.0.0.1:5000" in done.stdout
    assert arguments[arguments.index("fit") + 1 :][:4] == ["--config", "a.yaml", "--config", "b.yaml"]


def test_a_task_of_an_array_makes_its_part(run):
    _, arguments = run("caches.sbatch", "latents", "a b.tar", "--output", "x", **ARRAY)
    part = ["--output", "x", "--part", "3/16"]
    assert arguments == ["-m", "preparation.latents", "--device", "cuda", "a b.tar", *part]


def test_single_tasks_are_repeated_with_the_number_of_all(run):
    single = ARRAY | {"SLURM_ARRAY_TASK_MAX": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    done, arguments = run("preparation.sbatch", "realestate", **single)
    assert done.returncode == 2 and "PARTS=16" in done.stderr and not arguments
    _, arguments = run("preparation.sbatch", "realestate", PARTS="16", **single)
    assert arguments == ["-m", "preparation.realestate", "--workers", "8", "--part", "3/16"]


def test_a_task_that_fails_has_its_status(run, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    assert run("preparation.sbatch", "realestate", **ARRAY)[0].returncode == 3


def submitted(path):
    """The `sbatch` of a text: script and what follows it."""
    text = re.sub(r"\\\n[# ]*", "", path.read_text())
    lines = re.findall(r"^(?:# *| {4})((?:[A-Z]+=\S+ )?sbatch .*slurm/.+)$", text, re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines if "..." not in line]
    return [
        (line[k], line[k + 1 :]) for line in words for k, word in enumerate(line) if word.startswith("slurm/")
    ]


@pytest.mark.parametrize("path", [DOCS, *TEMPLATES], ids=lambda path: path.name)
def test_commands_that_are_documented_exist(path):
    found = submitted(path)
    assert found
    for script, arguments in found:
        assert (ROOT / script).is_file()
        if arguments[:1] in (["latents"], ["captions"]):
            parser = (
                latents._parser()
                if arguments[0] == "latents"
                else captions.rewriting_parser("", "encoder", "")
            )
            parser.parse_args(arguments[1:])


def test_the_caches_of_the_docs_are_those_of_the_config():
    config = ROOT / "configs/data/wan_latents.yaml"
    text = re.sub(r"\\\n[# ]*", "", config.read_text())
    expected = [shlex.split(line) for line in re.findall(r"python -m preparation\.(.+)", text)]
    assert [arguments for script, arguments in submitted(DOCS) if "caches" in script] == expected
