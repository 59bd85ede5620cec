"""What all readers share: restarts, parts, processes, held-out scenes, reports."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from miniature import read

from preparation.readers.windows import option, spread_windows
from scene4d.sample_format import SceneSample


@dataclass(frozen=True)
class Grey:
    """A scene is a file with a grey level."""

    source: ClassVar[str] = "grey"
    terms: ClassVar[str] = "CC0-1.0"
    side: int = option(8, "of a picture")

    def find_scenes(self, root: Path) -> list[Path]:
        return list(root.glob("*.txt"))

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        images = np.full((1, 1, self.side, self.side, 3), int(scene.read_text()), np.uint8)
        yield SceneSample("0", "", images, 1.0)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for k in range(7):
        (folder / f"{k}.txt").write_text("x" if k == 2 else str(10 * k))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_restarts_and_parts_give_the_same_shards(root, tmp_path, caplog):
    whole = tmp_path / "whole"
    samples = read(Grey, root, whole, "--shard-size", "3")
    assert [sample.key for sample in samples] == [f"grey-{k}-0" for k in (0, 1, 3, 4, 5, 6)]
    assert samples[2].images[0, 0, 0, 0].tolist() == [30, 30, 30] and samples[0].license == "CC0-1.0"
    expected = bytes_of(whole)
    (whole / "grey-train-000001.tar").unlink()
    with caplog.at_level(logging.INFO):
        read(Grey, root, whole, "--shard-size", "3")
    assert bytes_of(whole) == expected and "7 scenes, 3 shards, 2 exist already" in caplog.text
    assert "6 samples of 7 scenes, 1 skipped - 2: invalid literal" in caplog.text
    parts = tmp_path / "parts"
    for part in ("0/2", "1/2"):
        read(Grey, root, parts, "--shard-size", "3", "--part", part)
    assert bytes_of(parts) == expected
    counts = [
        json.loads((parts / f"reports/grey-train-part-{k}-of-2.json").read_text())["scenes"] for k in (0, 1)
    ]
    assert counts == [4, 3]


@pytest.mark.slow  # each process imports torch
def test_processes_give_the_same_shards(root, tmp_path):
    for workers in ("1", "2"):
        read(Grey, root, tmp_path / workers, "--shard-size", "3", "--workers", workers)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


def test_other_options_do_not_mix_with_finished_shards(root, tmp_path):
    read(Grey, root, tmp_path / "out")
    with pytest.raises(SystemExit, match="grey-train-000000.tar was made from other scenes or options"):
        read(Grey, root, tmp_path / "out", "--side", "16")
    (root / "8.txt").write_text("80")
    with pytest.raises(SystemExit, match="other scenes or options"):
        read(Grey, root, tmp_path / "out")


def test_held_out_scenes_are_split_by_name(root, tmp_path):
    out = tmp_path / "out"
    train = {sample.key for sample in read(Grey, root, out, "--val-share", "0.5")}
    both = {sample.key for sample in read(Grey, root, out, "--val-share", "0.5", "--split", "val")}
    assert train and both - train and len(both) == 6


def test_captions_and_nothing_usable(root, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"1": "dark grey"}))
    samples = read(Grey, root, tmp_path / "a", "--captions", str(captions), "--name", "white")
    assert samples[0].source == "white" and samples[0].key == "white-0-0"
    assert (tmp_path / "a/white-train-000000.tar").exists()
    assert [sample.caption for sample in samples][:3] == ["", "dark grey", ""]
    captions.write_text("[]")
    with pytest.raises(SystemExit, match="captions.json: expected a JSON object"):
        read(Grey, root, tmp_path / "b", "--captions", str(captions))
    with pytest.raises(SystemExit, match="holds no scene"):
        read(Grey, tmp_path / "nowhere", tmp_path / "b")
    for path in root.glob("*.txt"):
        path.write_text("x")
    with pytest.raises(SystemExit, match="none of 7 scenes could be used; first: 0: invalid literal"):
        read(Grey, root, tmp_path / "c")
    assert list((tmp_path / "c").glob("*.tar")) == []


def test_windows_are_spread_over_the_path():
    assert spread_windows(10, 4, 2, 3, "views") == [range(0, 7, 2), range(2, 9, 2), range(3, 10, 2)]
    assert spread_windows(7, 4, 2, 5, "views") == [range(0, 7, 2)]
    with pytest.raises(ValueError, match="has 6 views, expected at least 7"):
        spread_windows(6, 4, 2, 1, "views")
