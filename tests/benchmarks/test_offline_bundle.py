"""A bundle is built from tiny wheels and run in an environment that reaches nothing."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks import offline_wheels

ROOT = Path(__file__).parents[2]


def tiny_wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = ()) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = '{version}'\n")
        archive.writestr(f"{info}/METADATA", "\n".join(["Metadata-Version: 2.1", *lines, ""]))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


class Shelf:
    """Stands for a package index: gives the newest tiny wheel that a requirement allows."""

    def __init__(self, *wheels: tuple[str, str, tuple[str, ...]]) -> None:
        self.wheels, self.asked = wheels, []

    def __call__(self, text: str, folder: Path) -> Path:
        self.asked.append(text)
        wanted = Requirement(text)
        fitting = [w for w in self.wheels if w[0] == wanted.name and wanted.specifier.contains(w[1])]
        return tiny_wheel(folder, *max(fitting, key=lambda w: Version(w[1])))


def collected(shelf: Shelf, needed: list[str], have: dict[str, str], folder: Path) -> set[str]:
    there = {name: Version(version) for name, version in have.items()}
    wheels = offline_wheels.collect([Requirement(n) for n in needed], there, "3.12", folder, shelf)
    assert {w.name for w in folder.glob("*.whl")} == {w.name for w in wheels.values()}
    return {"-".join(w.name.split("-")[:2]) for w in wheels.values()}


@pytest.mark.parametrize(
    "text",
    [
        "Package Version Editable project location\n------- ------- ---\ntorch 2.11.0+cu130\nPyYAML 6.0.4\n",
        "torch==2.11.0+cu130\nPyYAML==6.0.4\nmine @ file:///home/me\n",
        '[{"name": "torch", "version": "2.11.0+cu130"}, {"name": "PyYAML", "version": "6.0.4"}]',
    ],
)
def test_every_format_of_pip_list_is_read(text):
    assert offline_wheels.installed(text) == {"torch": Version("2.11.0+cu130"), "pyyaml": Version("6.0.4")}


def test_what_is_no_pip_list_is_refused():
    with pytest.raises(ValueError, match="expected a line of `pip list`, got 'Traceback"):
        offline_wheels.installed("Traceback (most recent call last):\n")


def test_only_what_is_missing_or_too_old_is_carried(tmp_path):
    shelf = Shelf(("a", "1.0", ("b>=2", "c")), ("b", "2.0", ()), ("c", "1.0", ()), ("d", "3.0", ()))
    got = collected(shelf, ["a", "d>=2"], {"b": "1.9", "c": "0.5", "d": "2.5+cu130"}, tmp_path)
    assert got == {"a-1.0", "b-2.0"}


def test_circles_end_and_bounds_that_come_late_count(tmp_path):
    shelf = Shelf(("a", "1.0", ("b",)), ("b", "2.0", ("a", "c<2")), ("c", "2.1", ()), ("c", "1.5", ()))
    assert collected(shelf, ["a", "c"], {}, tmp_path) == {"a-1.0", "b-2.0", "c-1.5"}


def test_markers_and_extras_are_those_of_the_target(tmp_path):
    needs = (
        "b; extra == 'video'",
        "c; python_version < '3.12'",
        "d; sys_platform == 'win32'",
        "e; extra == 'x'",
    )
    shelf = Shelf(("a", "1.0", needs), *((name, "1.0", ()) for name in "bcde"))
    assert collected(shelf, ["a[video]"], {}, tmp_path) == {"a-1.0", "b-1.0"}
    (tmp_path / "there").mkdir()
    assert collected(shelf, ["a[video]"], {"a": "1.0"}, tmp_path / "there") == {"b-1.0"}


def test_dependencies_are_those_of_the_project():
    needed = offline_wheels.project_requirements(ROOT / "pyproject.toml", ["av"], ["pytest"])
    names = {r.name for r in needed}
    assert {"torch", "jsonargparse", "gsplat", "pytest"} <= names and "av" not in names


def test_a_bundle_is_built_and_runs_without_network(tmp_path):
    shelf, bundle = tmp_path / "shelf", tmp_path / "bundle"
    shelf.mkdir()
    tiny_wheel(shelf, "carried", "1.0", ("needed_too",))
    tiny_wheel(shelf, "needed_too", "2.0")
    there = offline_wheels.project_requirements(ROOT / "pyproject.toml", ["jsonargparse"], ["pytest"])
    (tmp_path / "have.txt").write_text("".join(f"{r.name} {allowed(r)}\n" for r in there))
    alone = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
    }
    command = ["bash", "benchmarks/offline_bundle.sh", "--have", str(tmp_path / "have.txt")]
    command += ["--without", "jsonargparse", "--with", "carried", str(bundle)]
    run(command, ROOT, alone | {"PYTHON": sys.executable})
    assert {p.name for p in (bundle / "wheels").iterdir()} == {
        "carried-1.0-py3-none-any.whl",
        "needed_too-2.0-py3-none-any.whl",
    }
    code = "import carried, needed_too, scene4d; print(carried.__file__, scene4d.__file__)"
    alone = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": sys.executable}
    found = run(["bash", str(bundle / "run.sh"), "python", "-c", code], tmp_path, alone).split()
    assert found == [f"{bundle}/site/carried.py", f"{bundle}/source/scene4d/__init__.py"]
    again = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert again.returncode == 1 and "already holds a bundle" in again.stderr


def allowed(requirement: Requirement) -> str:
    """Some version that a requirement allows: its lower bound."""
    bounds = [s.version for s in requirement.specifier if s.operator == ">="]
    return bounds[0] if bounds else "1.0"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
