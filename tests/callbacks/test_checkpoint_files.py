"""Broken, foreign and missing checkpoints are one line that names the file; `last` finds the newest whole one."""

import os
import pickle

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from safetensors.torch import save_file

from callbacks.checkpoint_files import (
    WholeCheckpoints,
    newest_checkpoint,
    own_path,
    read_checkpoint,
    with_whole_checkpoints,
)

CONTENT = {
    "state_dict": {"network.w": torch.zeros(1000)},
    "pytorch-lightning_version": "2.6.6",
    "global_step": 3,
}


class Command:
    def __reduce__(self):
        return os.system, ("touch was_executed",)


def whole(path):
    WholeCheckpoints().save_checkpoint(CONTENT, path)
    return path


def cut(path):
    data = whole(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def weights(path):
    save_file(CONTENT["state_dict"], path)


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut": (cut, "is cut: it ends after"),
    "lost": (lambda path: path.write_bytes(bytes(5000)), "is no checkpoint, or its content was lost"),
    "text": (lambda path: path.write_text("weights"), "is no checkpoint"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Command())), "is no checkpoint"),
    "archive": (
        lambda path: torch.save(Command(), path),
        "is damaged or no checkpoint: it holds something other",
    ),
    "dictionary": (lambda path: torch.save(CONTENT["state_dict"], path), "is not one that `fit` has written"),
    "safetensors": (weights, "is no checkpoint"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_one_line_that_names_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, reason = BROKEN[name]
    make(tmp_path / "x.ckpt")
    with pytest.raises(ValueError) as error:
        WholeCheckpoints().load_checkpoint(tmp_path / "x.ckpt")
    assert str(error.value).startswith(f"checkpoint {str(tmp_path / 'x.ckpt')!r} {reason}")
    assert "\n" not in str(error.value) and not (tmp_path / "was_executed").exists()


def test_weights_and_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights(tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match="holds weights alone, which belong into model.init_args.initial_weights"
    ):
        WholeCheckpoints().load_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="'a/b.ckpt' does not exist .in the working directory "):
        WholeCheckpoints().load_checkpoint("a/b.ckpt")


def test_a_checkpoint_comes_back_whole_with_the_umask_s_permissions(tmp_path):
    path = whole(tmp_path / "new/x.ckpt")
    assert torch.equal(WholeCheckpoints().load_checkpoint(path)["state_dict"]["network.w"], torch.zeros(1000))
    assert os.listdir(path.parent) == ["x.ckpt"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    """Also where the temporary folder of the system is on another file system, over which Lightning would copy."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    path, before = whole(tmp_path / "x.ckpt"), (tmp_path / "x.ckpt").read_bytes()
    if (child := os.fork()) == 0:
        monkeypatch.setattr("os.replace", lambda *_: os._exit(9))
        WholeCheckpoints().save_checkpoint({**CONTENT, "more": torch.ones(9)}, path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 2
    whole(path)
    assert os.listdir(tmp_path) == ["x.ckpt"]  # what the killed process left is gone


def aged(path, seconds):
    os.utime(path, (seconds, seconds))


def test_last_falls_back_to_the_newest_whole_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO")
    assert newest_checkpoint([tmp_path]) is None
    for age, name in enumerate(["last.ckpt", "epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt"]):
        aged(whole(tmp_path / name), 1000 + age)
    assert (
        newest_checkpoint([tmp_path]).name == "last.ckpt"
    )  # others may be newer: the best ones are no last ones
    aged(whole(tmp_path / "last-v1.ckpt"), 900)
    cut(tmp_path / "last.ckpt")
    assert newest_checkpoint([tmp_path]).name == "last-v1.ckpt"
    assert "last.ckpt' is cut" in caplog.text and f"{tmp_path}/last-v1.ckpt takes its place" in caplog.text
    cut(tmp_path / "last-v1.ckpt")
    assert newest_checkpoint([tmp_path]).name == "epoch=0-step=2.ckpt"
    for path in tmp_path.iterdir():
        cut(path)
    with pytest.raises(
        ValueError, match="--ckpt_path last: .* is cut.*; no other checkpoint beside it can be read"
    ):
        newest_checkpoint([tmp_path])


def test_a_folder_whose_first_checkpoint_was_cut_off_is_none_yet(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    assert newest_checkpoint([tmp_path]) is None
    assert own_path(tmp_path, None, of_many_ranks=True) == tmp_path / "last.ckpt"
    assert own_path(tmp_path, None) == tmp_path / "last-v1.ckpt"
    with pytest.raises(ValueError, match="last.ckpt' lacks state.ckpt: it was never completed"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_the_file_of_a_run(tmp_path):
    first = own_path(tmp_path, None)
    assert first == tmp_path / "last.ckpt"
    left, written = (tmp_path / f".last.ckpt.elsewhere.{number}.tmp" for number in (1, 2))
    for folder in (left, written):
        folder.mkdir()
        (folder / "last.ckpt").touch()
    aged(left / "last.ckpt", 1000)
    aged(left, 1000)
    aged(written, 1000)  # a folder's time is that of its last new file; this file is still being written
    assert own_path(tmp_path, whole(first)) == first
    assert sorted(os.listdir(tmp_path)) == [written.name, "last.ckpt"]
    assert own_path(tmp_path, None) == own_path(tmp_path, "/elsewhere/last.ckpt") == tmp_path / "last-v1.ckpt"
    cut(first)
    assert own_path(tmp_path, tmp_path / "epoch=0-step=1.ckpt") == first  # nobody needs a broken one


def test_own_plugins_for_checkpoints_stay():
    own = TorchCheckpointIO()
    assert with_whole_checkpoints([own]) == [own] and isinstance(
        with_whole_checkpoints(None)[0], WholeCheckpoints
    )
