"""Every file at the top of preparation/ is a command, and every command that is named anywhere exists."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = sorted(path.stem for path in (ROOT / "preparation").glob("*.py") if path.stem != "__init__")
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("assets/**/*.md"),
    *ROOT.glob("*.mk"),
    ROOT / "Makefile",
]
TEXTS += [*ROOT.glob("preparation/**/*.py"), *ROOT.glob("configs/**/*.yaml")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_how_the_command_is_called(name, monkeypatch, capsys):
    if name == "physics":
        pytest.importorskip("pybullet")
    monkeypatch.delitem(sys.modules, f"preparation.{name}", raising=False)  # runpy warns of a second copy
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"preparation.{name}", run_name="__main__")
    assert stop.value.code == 0
    assert f"python -m preparation.{name} " in capsys.readouterr().out


def test_every_named_command_exists():
    named = {name for path in TEXTS for name in re.findall(r"-m preparation\.([\w.]+)", path.read_text())}
    assert named - {"NAME"} == set(COMMANDS)
