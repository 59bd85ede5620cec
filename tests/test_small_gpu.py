"""The scripts that train the small preset on a GPU: their commands fit together, restart, and pack what they read."""

import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_configs import exports, inputs, printed

from benchmarks import steps_within
from preparation.writing.shards import write_shard
from scene4d.sample_format import SceneSample

ROOT = Path(__file__).parents[1]
STAGES = [
    "autoencoder", "refinement", "base_video", "diffusion_stage1", "diffusion_stage2",
    "geometry", "reconstruction_joint", "reconstruction_dynamic",
]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Runs small_gpu.sh with a python that notes its arguments and measures 77 steps; returns the new calls."""
    fake, log = tmp_path / "python", tmp_path / "log"
    note = f"printf '%q ' \"$@\" >> {log}; echo >> {log}"
    fake.write_text(f"#!/usr/bin/env bash\n{note}\n[ $2 != benchmarks.steps_within ] || echo 77\n")
    fake.chmod(0o755)

    def call(*stages, **variables):
        log.write_text("")
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "RUNS": str(tmp_path / "runs"),
        }
        command = ["bash", "runs/small_gpu.sh", *stages]
        subprocess.run(command, cwd=ROOT, check=True, env=environment | variables, stdin=subprocess.DEVNULL)
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return call


def test_stages_read_what_earlier_ones_wrote(run, tmp_path):
    calls = run()
    fits = [tuple(call[1:]) for call in calls if call[0] == "main.py"]
    there = {call[call.index("--output") + 1] for call in calls if call[1] == "preparation.linear_codec"}
    assert len(fits) == len(STAGES)
    for name, fit in zip(STAGES, fits):
        config = printed(fit)
        committed = {file for file in inputs(config) if file.startswith("assets/")}
        # the committed autoencoder is the default of the network, and every stage replaces it
        assert inputs(config) <= there and not committed, (name, inputs(config) - there)
        trainer = config["trainer"]
        assert trainer["max_steps"] == 77 and trainer["precision"] == "bf16-mixed"
        assert trainer["max_time"] == "00:00:10:00" and config["ckpt_path"] == "last"
        there |= {f"{trainer['default_root_dir']}/{file}" for file in exports(config)}
        for part in ("train_defaults", "val_defaults"):
            assert config["data"]["init_args"][part]["root"].startswith("data/compact/")


def test_the_exact_flow_is_sampled():
    stage = ("fit", "--config", "configs/small_gpu/diffusion_stage2.yaml")
    assert printed(stage)["model"]["init_args"]["flow"]["noise_scale"] == 1.0


def test_what_is_there_is_not_made_again(run, tmp_path):
    (tmp_path / "runs/autoencoder").mkdir(parents=True)
    (tmp_path / "runs/autoencoder/autoencoder.safetensors").touch()
    (tmp_path / "runs/linear_codec.safetensors").touch()
    first = run("autoencoder", "refinement")
    assert [call[:2] for call in first] == [["-m", "benchmarks.steps_within"], ["main.py", "fit"]]
    again = run("refinement")  # its weights are missing: it goes on, with the steps that were measured
    assert [call[:2] for call in again] == [["main.py", "fit"]] and again == first[1:]


def test_steps_can_be_given(run):
    (fit,) = run("geometry", STEPS="5", OPTIONS="--trainer.accelerator cpu")
    assert fit[fit.index("--trainer.max_steps") + 1] == "5" and "--trainer.accelerator" in fit


def test_steps_follow_from_the_ends_of_the_first_ones():
    compiling = [10.0 * k for k in range(steps_within.WARMUP)]
    times = [*compiling, *(compiling[-1] + 0.5 * k for k in range(1, 41))]
    assert steps_within.steps_within(100, times) == 200
    assert steps_within.steps_within(6, [0.0, 2.0, 5.0]) == 2


def test_the_steps_of_a_training_are_measured(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(steps_within, "STEPS", 3)
    options = ["--data.init_args.batch_size", "1", "--data.init_args.num_workers", "0"]
    steps = steps_within.main(["600", "fit", "--config", "configs/small/diffusion_stage1.yaml", *options])
    assert 10 < steps < 10**6


def keys(shard):
    return tarfile.open(shard).getnames()[0].partition(".")[0]


def test_shards_are_packed_into_pieces_and_unpacked(tmp_path):
    shards, glb, out = tmp_path / "in", tmp_path / "glb", tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
    depth = {"depths": np.ones((2, 1, 16, 16), np.float32), "depth_frames": [0]}
    for name in ("rooms", "objects", "physics", "homography", "static"):
        for split in ("train", "val"):
            write_shard(shards / f"{name}-{split}-000000.tar", [SceneSample("a", name, noise, 12.0, **depth)])
            if name != "homography":
                write_shard(
                    glb / f"{name}-{split}-000000.tar", [SceneSample("b", name, noise, 12.0, **depth)]
                )
    environment = os.environ | {
        "IN": str(shards), "GLB": str(glb), "HELD_OUT": str(shards), "OUT": str(out), "PIECE": "0", "WORKERS": "1",
        "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    script = ["bash", "runs/pack_small_data.sh"]
    subprocess.run(script, cwd=ROOT, check=True, env=environment)
    pieces = sorted((out / "pieces").iterdir())
    assert len(pieces) == 14 + 7  # PIECE 0: every shard is one
    for shard in out.glob("*/*-*.tar"):  # the reconstructor alone trains on depth
        stored = any("depth_" in name for name in tarfile.open(shard).getnames())
        assert stored == (shard.parent.name == "scenes"), shard
    assert (
        keys(out / "grids/objects-train-glb-000000.tar")
        == keys(out / "scenes/rooms-train-glb-000000.tar")
        == "b"
    )
    assert keys(out / "grids/objects-train-000000.tar") == "a" and not list(out.glob("*/*-val-glb-*"))
    whole = {path: path.read_bytes() for path in out.glob("*/*-*.tar")}
    assert {tarfile.open(piece).getnames()[0] for piece in pieces} == {str(p.relative_to(out)) for p in whole}
    for path in whole:
        path.unlink()
    subprocess.run([*script, "--unpack"], cwd=ROOT, check=True, env=environment)
    assert all(path.read_bytes() == data for path, data in whole.items())
