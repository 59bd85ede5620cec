"""The commands of config headers and README: the real command line parses them, and their files fit together."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from main import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path for part in ("small", "vggt_1b", "evaluation") for path in ROOT.glob(f"configs/{part}/*.yaml")
)


def commands(path):
    """The arguments of all `python main.py` of a text, comments included; continued lines are joined."""
    text = re.sub(r"\\\n[# ]*", "", path.read_text())
    return [
        tuple(shlex.split(found))
        for found in re.findall(r"python main\.py ((?:fit|validate|test|predict) .+)", text)
    ]


@cache
def printed(args):
    """What `--print_config` shows."""
    args = [arg.replace("your_data.yaml", "configs/data/small_reconstruction_static.yaml") for arg in args]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.chdir(ROOT)
        patch.setattr("sys.argv", ["main.py"])
        patch.setattr("sys.stdout", type("Lines", (), {"write": lines.append, "flush": lambda: None}))
        with pytest.raises(SystemExit) as end:
            main([*args, "--print_config"])
    assert end.value.code in (0, None)
    return yaml.safe_load("".join(lines))


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
    known = set.union(*(made(printed(fit)) for fit in fits))
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


def test_the_trainer_config_parses():
    config = printed(
        ("fit", "--config", "configs/small/diffusion_stage1.yaml", "--trainer", "configs/trainer/cpu.yaml")
    )
    assert config["trainer"]["max_steps"] == 1000
