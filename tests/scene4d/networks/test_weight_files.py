"""Weights by file, folder and hub id; what of them is read, and when."""

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

from scene4d.networks import weight_files
from scene4d.networks.pretrained import read_weights, refuse_missing
from scene4d.networks.weight_files import weight_file


def test_a_file_and_a_folder_as_the_hub_has_it(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    assert weight_file(tmp_path) == tmp_path / "model.pt"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert weight_file(str(tmp_path)) == tmp_path / "model.safetensors"
    assert weight_file(tmp_path / "model.pt") == tmp_path / "model.pt"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds neither model.safetensors nor model.pt"):
        weight_file(tmp_path / "empty")


def test_a_hub_id_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    monkeypatch.setattr(weight_files, "hf_hub_download", download)
    assert weight_file("facebook/VGGT-1B") == tmp_path / "model.pt"
    assert asked == [("facebook/VGGT-1B", "model.safetensors"), ("facebook/VGGT-1B", "model.pt")]


@pytest.mark.parametrize("path", ["weights/vggt_1b.safetensors", "runs/last.ckpt", "a/b/c", "nothing"])
def test_what_cannot_be_a_hub_id_is_not_asked_for(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weight_files, "hf_hub_download", lambda *args: pytest.fail("it was asked for"))
    with pytest.raises(ValueError, match=f"{path}' does not exist in the working directory '{tmp_path}'"):
        refuse_missing([path])


def test_without_a_network_one_line_says_which_file_goes_where(monkeypatch, tmp_path):
    def download(repository, name):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file.\nAdvice.")

    monkeypatch.setattr(weight_files, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        read_weights("facebook/VGGT-1B")
    for part in ("'facebook/VGGT-1B'", "model.safetensors of huggingface.co/facebook/VGGT-1B", "to locate the file.",
                 f"'{tmp_path}/weights/VGGT-1B'"):  # fmt: skip
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_the_real_client_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="'nobody/nothing': there is no such file or folder here"):
        weight_file("nobody/nothing")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_values_stay_on_the_disk_until_they_are_used(tmp_path, suffix):
    path = tmp_path / f"large.{suffix}"
    content = {"x": torch.ones(8, 2**21)}  # 64 MiB
    save_file(content, path) if suffix == "safetensors" else torch.save(content, path)
    del content
    before = resident()
    weights = read_weights(path)
    assert resident() - before < 16 * 2**20
    assert weights["x"][3].sum() == 2**21
    assert resident() - before < 32 * 2**20


def resident():
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        pytest.skip("only Linux tells")
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
