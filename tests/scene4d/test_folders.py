"""Listing folders: natural order, no dot files, suffixes of either case."""

import random
from pathlib import Path

import pytest

from scene4d.folders import listed, listed_below, natural_key


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    "names",
    [
        ["frame_7.png", "frame_8.png", "frame_9.png", "frame_10.png", "frame_11.png"],
        ["a.png", "a01.png", "a1.png", "a2.png", "b.png"],
        ["1.png", "2.png", "10.png", "x.png"],
        ["cam0_9.png", "cam0_10.png", "cam00_11.png", "cam1_0.png", "cam10_0.png"],
        ["view.png", "view_1.png", "View_2.png", "view_3.png"],
        ["007.png", "8.png", "99999999999999999999.png", "100000000000000000000.png"],
    ],
)
def test_numbers_count_by_their_value(tmp_path, names):
    mixed = random.Random(0).sample(names, len(names))
    assert [path.name for path in listed(touched(tmp_path, *mixed), [".png"])] == names
    assert sorted(mixed, key=natural_key) == names


def test_dot_files_do_not_count_and_suffixes_have_either_case(tmp_path):
    touched(
        tmp_path,
        "IMG_2.JPG",
        "img_10.jpeg",
        "IMG_1.png",
        "._IMG_1.png",
        ".hidden.png",
        ".png",
        "a.txt",
        "jpg",
    )
    assert [p.name for p in listed(tmp_path, [".png", ".jpg", ".jpeg"])] == [
        "IMG_1.png",
        "IMG_2.JPG",
        "img_10.jpeg",
    ]
    assert [p.name for p in listed(tmp_path, ["img_*.jp*"])] == ["IMG_2.JPG", "img_10.jpeg"]
    assert listed(tmp_path / "missing", ["*"]) == []


def test_folders_with_a_dot_are_not_entered(tmp_path):
    root = touched(
        tmp_path / ".data", "b10/x.npz", "b9/x.npz", "b9/._x.npz", ".trash/x.npz", "b9/.cache/x.npz"
    )
    assert [p.relative_to(root).as_posix() for p in listed_below(root, [".npz"])] == ["b9/x.npz", "b10/x.npz"]
