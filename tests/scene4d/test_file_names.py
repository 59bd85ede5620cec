"""Names from data as names of files: inside the folder, on every file system, one for each thing."""

import os
from pathlib import Path

import pytest

from scene4d.file_names import LONGEST, FreeNames, safe_name

HOSTILE = [
    "../../x", "/etc/passwd", "..", ".", "", " ", ".hidden", "a/b", "a\\b", "C:\\x", "nul\0byte", "new\nline", "CON",
    "con.txt", "lpt1", "x" * 5000, "é" * 200, "\udcff broken", "a:b", "trailing.", "trailing ", "~", "a*b?", "-rf",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_the_folder(tmp_path, name):
    safe = safe_name(name)
    folder = tmp_path / safe
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve() and os.listdir(tmp_path) == [safe]
    assert len(safe.encode()) <= LONGEST and not safe.startswith(".") and not safe.endswith((".", " "))
    assert safe.split(".")[0].lower() not in ("con", "nul", "lpt1")


def test_long_names_that_differ_in_replaced_characters_stay_different():
    assert safe_name("x" * 200 + "/") != safe_name("x" * 200 + ":")


@pytest.mark.parametrize(
    "name", ["objects_000012", "scene-3.b", "objects-val-0-000006", "Straße 7", "場面", "a=1,b"]
)
def test_ordinary_names_stay_as_they_are(name):
    assert safe_name(name) == name


def test_long_names_that_differ_at_the_end_only_stay_different():
    assert safe_name("x" * 500 + "1") != safe_name("x" * 500 + "2")


def test_every_thing_has_its_own_name_and_a_rerun_the_same():
    wanted = ["scene", "scene", "Scene", "a/b", "a_b", "scene_2"]
    runs = []
    for _ in range(2):
        names = FreeNames()
        runs.append([names.take(name) for name in wanted])
    assert runs[0] == runs[1] == ["scene", "scene_2", "Scene_3", "a_b", "a_b_2", "scene_2_2"]
    assert len({name.casefold() for name in runs[0]}) == len(wanted)


def test_processes_never_take_the_same_name(tmp_path: Path):
    first, second = FreeNames(tmp_path), FreeNames(tmp_path)
    assert [first.take("scene"), second.take("Scene"), first.take("scene"), second.take("b")] == [
        "scene", "Scene_2", "scene_3", "b",
    ]  # fmt: skip
