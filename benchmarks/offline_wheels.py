"""Downloads the wheels that a machine without internet lacks to run this project.

    python -m benchmarks.offline_wheels --have pip-list.txt --python 3.12 --output bundle/wheels

`pip list` of that machine says what it has. A package that is there in an allowed version is left alone; all others
are downloaded for the platform of that machine, with what they need themselves. `benchmarks/offline_bundle.sh` puts
the source and a run script beside them.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
# what pip on a Linux machine of glibc 2.28 or newer would take; pip compares these by name, not by number
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]
Fetch = Callable[[str, Path], Path]


def installed(text: str) -> dict[str, Version]:
    """Reads what `pip list` prints in any of its formats: columns, freeze or json.

    Raises:
        ValueError: A line of it is none of these; shows the line.
    """
    if text.lstrip().startswith("["):
        return {canonicalize_name(p["name"]): Version(p["version"]) for p in json.loads(text)}
    found = {}
    for line in text.splitlines():
        words = line.replace("==", " ").split()
        if not words or words[0] == "Package" or set(words[0]) == {"-"} or " @ " in line:
            continue
        if len(words) < 2 or not re.match(r"v?\d", words[1]):
            raise ValueError(f"expected a line of `pip list`, got {line!r}")
        found[canonicalize_name(words[0])] = Version(words[1])
    return found


def project_requirements(
    pyproject: Path, without: Iterable[str], further: Iterable[str]
) -> list[Requirement]:
    """The dependencies of this project, less some names, and further ones."""
    dropped = {canonicalize_name(name) for name in without}
    block = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject.read_text(), re.M | re.S)
    assert block is not None
    lines = re.findall(r'^\s*"(.+?)",', block[1], re.M)
    needed = [Requirement(line) for line in [*lines, *further]]
    return [r for r in needed if canonicalize_name(r.name) not in dropped]


def collect(
    needed: Sequence[Requirement], have: dict[str, Version], python: str, output: Path, fetch: Fetch
) -> dict[str, Path]:
    """Downloads what is needed and not there, and what that needs, until nothing is missing.

    Args:
        needed: Requirements of the project.
        have: Packages of the target.
        python: Version of Python there, e.g. 3.12; markers are read for it and for Linux on x86-64.
        output: Folder of the wheels.
        fetch: Downloads one requirement into a folder and returns the wheel.

    Returns:
        One wheel for every package that is carried.
    """
    target = _environment(python)
    wheels: dict[str, Path] = {}
    bounds: dict[str, Requirement] = {}
    open_ends = list(needed)
    while open_ends:
        requirement = open_ends.pop()
        name = canonicalize_name(requirement.name)
        if not _applies(requirement, target, ()):
            continue
        before = bounds.get(name, Requirement(name))
        bounds[name] = known = _both(before, requirement)
        if name in have and known.specifier.contains(have[name], prereleases=True):
            if requirement.extras:  # the package is there, what its extra needs may not be
                open_ends += _needs_of_installed(requirement, have[name], target, fetch)
            continue
        if name not in wheels or not known.specifier.contains(_version(wheels[name]), prereleases=True):
            if name in wheels:
                wheels.pop(name).unlink()
            log.info("%s", _spelled(known))
            wheels[name] = fetch(_spelled(known), output)
        elif known.extras == before.extras:
            continue
        open_ends += needs(wheels[name], known.extras, target)
    return wheels


def needs(wheel: Path, extras: Iterable[str], target: dict[str, str]) -> list[Requirement]:
    """What a wheel says it needs on the target, with some extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    lines = metadata.get_all("Requires-Dist") or []
    found = [Requirement(line) for line in lines]
    return [_without_marker(r) for r in found if _applies(r, target, extras)]


def download(python: str, platforms: Sequence[str]) -> Fetch:
    """Returns what downloads one wheel by pip, for another Python and other platforms than this one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python]
    command += [word for platform in platforms for word in ("--platform", platform)]

    def fetch(requirement: str, folder: Path) -> Path:
        before = set(folder.glob("*.whl"))
        done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True)
        if done.returncode:
            reason = next((x for x in done.stderr.splitlines()[::-1] if "ERROR" in x), done.stderr[-300:])
            raise ValueError(f"{requirement}: no wheel for Python {python} on {platforms[0]}: {reason}")
        return (set(folder.glob("*.whl")) - before).pop()

    return fetch


def _environment(python: str) -> dict[str, str]:
    """Markers of the target; `packaging` fills in what is missing from this machine."""
    return {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "os_name": "posix",
        "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip


def _applies(requirement: Requirement, target: dict[str, str], extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate(target | {"extra": extra}) for extra in ("", *extras))


def _without_marker(requirement: Requirement) -> Requirement:
    requirement.marker = None
    return requirement


def _both(known: Requirement, other: Requirement) -> Requirement:
    """One requirement with the bounds and the extras of two."""
    joined = Requirement(other.name)
    joined.specifier, joined.extras = known.specifier & other.specifier, known.extras | other.extras
    return joined


def _spelled(requirement: Requirement) -> str:
    """Without extras: pip looks for their needs even where it is told to leave them."""
    return f"{requirement.name}{requirement.specifier}"


def _version(wheel: Path) -> Version:
    return Version(wheel.name.split("-")[1])


def _needs_of_installed(
    requirement: Requirement, version: Version, target: dict[str, str], fetch: Fetch
) -> list[Requirement]:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = fetch(f"{requirement.name}=={version.public}", Path(scratch))
        every = {str(r) for r in needs(wheel, (), target)}
        return [r for r in needs(wheel, requirement.extras, target) if str(r) not in every]


def main(arguments: Sequence[str] | None = None) -> None:
    """Downloads the wheels and logs their sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--have", type=Path, help="Output of `pip list` on the target. Default: it has nothing."
    )
    parser.add_argument("--python", default="3.12", help="Version of Python on the target.")
    parser.add_argument(
        "--platform", action="append", help="Wheel tag that the target takes; may be repeated."
    )
    parser.add_argument(
        "--without", action="append", default=[], help="Dependency that is left out, e.g. av."
    )
    parser.add_argument("--with", dest="further", action="append", default=[], help="A further requirement.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the wheels.")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    have = installed(options.have.read_text()) if options.have else {}
    needed = project_requirements(ROOT / "pyproject.toml", options.without, options.further)
    fetch = download(options.python, options.platform or PLATFORMS)
    wheels = collect(needed, have, options.python, options.output, fetch)
    size = sum(wheel.stat().st_size for wheel in wheels.values())
    log.info("%d wheels, %.1f MB", len(wheels), size / 1e6)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
