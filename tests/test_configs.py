"""The commands of config headers and README: the real command line parses them, and their files fit together."""

import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from main import main

ROOT = Path(__file__).parents[1]
RECIPES = sorted(ROOT.glob("recipes/*.sh"))
CONFIGS = sorted(
    path
    for part in ("small", "small_gpu", "vggt_1b", "wan", "evaluation")
    for path in ROOT.glob(f"configs/{part}/*.yaml")
    if path.stem != "linear_predictor"  # of a preparation command
)


def commands(path):
    """The arguments of all `python main.py` of a text, comments included; continued lines are joined."""
    text = re.sub(r"\\\n[# ]*", "", path.read_text())
    return [
        tuple(shlex.split(found))
        for found in re.findall(r"python main\.py ((?:fit|validate|test|predict) .+)", text)
    ]


def printed(args):
    """What `--print_config` shows."""
    return yaml.safe_load(shown(args))


@cache
def shown(args):
    args = [arg.replace("your_data.yaml", "configs/data/small_reconstruction_static.yaml") for arg in args]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        patch.setattr("sys.stdout", type("Lines", (), {"write": lines.append, "flush": lambda: None}))
        with pytest.raises(SystemExit) as end:
            main([*args, "--print_config"])
    assert end.value.code in (0, None)
    return "".join(lines)


def prepared(path):
    """What the preparation commands of a text write."""
    text = re.sub(r"\\\n[# ]*", "", path.read_text())
    return set(re.findall(r"python -m preparation\.\S+ .*--output (\S+)", text))


def strings(tree):
    if isinstance(tree, (dict, list)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from strings(branch)
    elif isinstance(tree, str):
        yield tree


def inputs(config):
    """Weights and grids that a run reads."""
    return {text for text in strings([config["model"], config["data"]]) if text.endswith(".safetensors")}


def exports(config):
    """What a run writes, by file name, below its default_root_dir."""
    options = [callback.get("init_args") or {} for callback in config["trainer"]["callbacks"]]
    return {option["path"] for option in options if "path" in option}


def made(config):
    names = exports(config) | (
        {"grid.safetensors"} if "callbacks.GridExport" in set(strings(config)) else set()
    )
    return {f"{config['trainer']['default_root_dir']}/{name}" for name in names}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_header_of_a_config_gives_a_command_that_parses(path):
    (command,) = commands(path)
    assert str(path.relative_to(ROOT)) in command
    config = printed(command)
    assert not any("/" in name for name in exports(config)), "exports are relative to default_root_dir"
    assert not any(
        (callback.get("init_args") or {}).get("dirpath") for callback in config["trainer"]["callbacks"]
    )
    fits = [command for other in CONFIGS for command in commands(other) if command[0] == "fit"]
    known = set.union(*(made(printed(fit)) for fit in fits), *(prepared(other) for other in CONFIGS))
    assert {file for file in inputs(config) if file.startswith("runs/")} <= known
    assert all((ROOT / file).is_file() for file in inputs(config) if file.startswith("assets/"))


def test_the_commands_of_the_readme_work_in_their_order():
    there = set()
    for command in commands(ROOT / "README.md"):
        config = printed(command)
        missing = {
            file
            for file in inputs(config) - there
            if not (ROOT / "assets" in (ROOT / file).parents and (ROOT / file).is_file())
        }
        assert not missing, " ".join(command)
        there |= made(config)
    assert "outputs/mine/grid.safetensors" in there


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_chain_of_commands_that_parse(path, tmp_path):
    """The script runs with a python that only notes what it is called with."""
    fake, log = tmp_path / "python", tmp_path / "log"
    fake.write_text(f"#!/usr/bin/env bash\nprintf '%q ' \"$@\" >> {log}; echo >> {log}\n")
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(path)], check=True, env=environment, stdin=subprocess.DEVNULL)
    calls = [shlex.split(line) for line in log.read_text().splitlines()]
    fits = [tuple(call[1:]) for call in calls if call[0] == "main.py"]
    assert len(fits) == path.read_text().count("python main.py ") > 1
    there = {call[call.index("--output") + 1] for call in calls if call[0] == "-m"}
    for fit in fits:
        config = printed(fit)
        committed = {
            file for file in inputs(config) if file.startswith("assets/") and (ROOT / file).is_file()
        }
        assert inputs(config) - committed <= there, " ".join(fit)
        assert not made(config) & there, "a run must not write over another one"
        there |= made(config)
    assert max(map(len, path.read_text().splitlines())) <= 120


def test_a_machine_is_a_config_of_its_own():
    stage = ("fit", "--config", "configs/small/diffusion_stage1.yaml")
    on_cpu, on_gpus = printed(stage), printed((*stage, "--config", "configs/trainer/gpu.yaml"))
    changed = {key for key in on_cpu["trainer"] if on_cpu["trainer"][key] != on_gpus["trainer"][key]}
    assert changed == {"accelerator", "devices", "strategy", "precision"}
    assert on_cpu["model"] == on_gpus["model"] and on_cpu["data"] == on_gpus["data"]


def test_a_leaf_of_a_network_s_file_can_be_changed(tmp_path):
    stage = ("fit", "--config", "configs/small/diffusion_stage1.yaml")
    key, later = "model.init_args.network.init_args.num_layers", tmp_path / "later.yaml"
    later.write_text(f"{key}: 3\n")
    networks = [
        printed((*stage, *options))["model"]["init_args"]["network"]
        for options in ((), (f"--{key}", "2"), ("--config", str(later)))
    ]
    assert [network["init_args"].pop("num_layers") for network in networks] == [8, 2, 3]
    assert networks[0] == networks[1] == networks[2]


def test_stage_2_goes_on_with_longer_videos_of_the_same_mixture():
    first, second = (
        printed(("fit", "--config", f"configs/small/diffusion_stage{k}.yaml"))["data"] for k in (1, 2)
    )
    selections = [
        data["init_args"][part].pop("selection")["init_args"]
        for data in (first, second)
        for part in ("train_defaults", "val_defaults")
    ]
    assert [selection.pop("frames") for selection in selections] == [9, 9, 17, 17]
    assert selections[:2] == selections[2:] and first == second
    weights = {source["name"]: source["weight"] for source in first["init_args"]["train"]}
    assert weights == {"objects": 0.4, "physics": 0.2, "homography": 0.2, "static": 0.2}


def test_the_larger_set_is_the_same_mixture_in_another_folder():
    stage = ("fit", "--config", "configs/small/diffusion_stage2.yaml")
    small, large = (
        printed(args)["data"]["init_args"]
        for args in (stage, (*stage, "--config", "configs/small/larger_set.yaml"))
    )
    assert (small["train_defaults"].pop("root"), large["train_defaults"].pop("root")) == (
        "assets/small/shards",
        "data/small",
    )
    assert (small.pop("cache_mb"), large.pop("cache_mb")) == (256.0, 2500.0)
    assert small == large


@pytest.mark.parametrize("options, expected", [
    (["--data.fixed_view", "a.mp4", "--data.prompt", "a cat, which runs: fast"],
     {"fixed_view": "a.mp4", "freeze_time": None, "prompt": "a cat, which runs: fast", "size": 64}),
    (["--data.freeze_time", "b.mp4", "--data.fixed_view", "null", "--data.size", "[144,256]"],
     {"fixed_view": None, "freeze_time": "b.mp4", "size": [144, 256]}),
    (["--data.init_args.prompt=[a dog] - \"barks\" # null"], {"prompt": '[a dog] - "barks" # null'}),
    (["--data.scenes", "pairs.csv"], {"fixed_view": None, "freeze_time": None, "scenes": "pairs.csv"}),
])  # fmt: skip
def test_predict_takes_a_user_s_files_as_short_options(options, expected):
    configs = ("--config", "configs/small/shipped_diffusion.yaml",
               "--config", "configs/evaluation/predict_grid.yaml")  # fmt: skip
    given = printed(("predict", *configs, *options))["data"]["init_args"]
    assert {name: given[name] for name in expected} == expected
