"""Files appear whole or not at all, readable by whom the umask lets."""

import os

import pytest
import torch
from safetensors.torch import save_file

from scene4d.atomic import replacing, write_text


def test_a_file_appears_whole_in_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ä"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "b.txt"
    write_text(path, "before")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
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
