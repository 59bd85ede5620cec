"""Files appear whole or not at all, readable by whom the umask lets."""

import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scene4d.atomic import plain, replacing, write_json, write_text
from scene4d.evaluation.rows import Row
from scene4d.gaussians.ply import write_ply
from scene4d.grid_format import write_grid
from scene4d.types import Gaussians, SceneBatch
from scene4d.viewer import write_viewer
from scene4d.visualization import write_png, write_video


def test_a_file_appears_whole_in_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ä"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "b.txt"
    write_text(path, "before")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent.parent == tmp_path and temporary.parent.name.startswith(".")
        raise OSError("full")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("umask, expected", [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path, umask, expected):
    path, old = tmp_path / "x.safetensors", os.umask(umask)
    try:
        with replacing(path) as temporary:
            save_file({"x": torch.zeros(1)}, temporary)  # asks for 0600
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == expected


def test_json_is_exact(tmp_path):
    write_json(
        tmp_path / "new" / "x.json", {"a": torch.tensor(0.5), "b": [1, np.int64(2), float("nan")], 3: None}
    )
    text = (tmp_path / "new" / "x.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": [1, 2, None], "3": None}
    assert "NaN" not in text and [p.name for p in (tmp_path / "new").iterdir()] == ["x.json"]
    with pytest.raises(ValueError, match="cannot write set"):
        plain({"a": {1}})


def test_rows_are_dictionaries_in_json():
    assert plain([Row("objects", "sample", "psnr", 1.0, 2)]) == [
        {"source": "objects", "method": "sample", "score": "psnr", "value": 1.0, "count": 2}
    ]


def test_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


GAUSSIANS = Gaussians(
    means=torch.zeros(2, 3), quats=torch.eye(4)[:2], scales=torch.ones(2, 3), opacities=torch.full((2,), 0.5),
    colors=torch.ones(2, 3),
)  # fmt: skip
GRID = SceneBatch(
    images=torch.zeros(1, 1, 1, 3, 2, 2), cameras=None, frame_times=torch.zeros(1, 1),
    reference=torch.zeros(1, 1, 1, dtype=torch.bool), source=["objects"], keys=["a"],
)  # fmt: skip
WRITERS = {
    "grid.safetensors": lambda path: write_grid(path, GRID),
    "frame.ply": lambda path: write_ply(path, GAUSSIANS),
    "viewer.html": lambda path: write_viewer(path, [GAUSSIANS], None, (4, 4)),
    "picture.png": lambda path: write_png(path, torch.zeros(3, 2, 2)),
    "video.mp4": lambda path: write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 12),
    "metrics.json": lambda path: write_json(path, {"a": 1}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_makes_its_folder_follows_the_umask_and_leaves_the_old_file(tmp_path, name, monkeypatch):
    path, old = tmp_path / "new" / name, os.umask(0o027)
    try:
        WRITERS[name](path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640 and os.listdir(path.parent) == [name]
    path.write_bytes(b"before")

    def full(source, target):
        assert source.stat().st_size > 0
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="full"):
        WRITERS[name](path)
    assert path.read_bytes() == b"before" and os.listdir(path.parent) == [name]


KILLED = """
import os, signal, sys
from pathlib import Path
from scene4d.atomic import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    (temporary.parent / ".tmp7a2bC9").write_text("a library's own temporary file, as safetensors makes it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_others_write_stays(tmp_path):
    path = tmp_path / "x.txt"
    subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={"PYTHONPATH": str(Path(__file__).parents[2])}
    )
    assert len(os.listdir(tmp_path)) == 1
    others = [f".x.txt.{platform.node()}.{os.getppid()}.tmp", ".x.txt.elsewhere.1.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    write_text(path, "a")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "x.txt"])


def test_files_reach_the_disk_before_they_take_their_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("os.fsync", lambda _: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda *x: (done.append("replace"), replace(*x)))
    write_text(tmp_path / "x.txt", "a")
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("write", [
    lambda path: torch.save(torch.rand(10_000), path), lambda path: save_file({"x": torch.rand(10_000)}, path),
    lambda path: path.write_bytes(bytes(10_000)),
])  # fmt: skip
def test_a_full_disk_is_an_error_that_names_the_file_whatever_library_writes(tmp_path, write):
    """torch and safetensors raise errors of their own that name nothing."""
    path, limits = tmp_path / "x", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError) as error, replacing(path) as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path) and error.value.strerror == "File too large"
    assert os.listdir(tmp_path) == ["x"] and path.read_text() == "before"


def test_errors_about_other_files_and_bugs_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    assert error.value.filename == str(tmp_path / "source")
    with pytest.raises(RuntimeError, match="a bug"), replacing(tmp_path / "x"):
        raise RuntimeError("a bug")
