"""Checkpoints of many ranks: what is in the folder, who reads which rows, what is refused, and when it counts."""

import errno
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from scene4d.distributed import checkpoint_folder
from scene4d.distributed.checkpoint_folder import (
    FILES,
    SHAPES,
    SPLIT,
    STATE,
    BackgroundSave,
    Part,
    read_folder,
    write_folder,
)
from scene4d.distributed.sharding import from_rows

WEIGHT = torch.arange(35.0).view(7, 5)
SHORT = torch.tensor([4.0, 5.0])  # fewer rows than ranks


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    dist.destroy_process_group()


@pytest.fixture
def folder(tmp_path):
    """What three ranks write."""
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    names = [f"ab-{k:05}-of-00003.safetensors" for k in range(3)]
    for k, name in enumerate(names):
        rows = {"state_dict/w": WEIGHT[3 * k : 3 * k + 3].contiguous()}
        rows |= {"optimizer_states/0/state/0/exp_avg": SHORT[k : k + 1].clone()} if k < 2 else {}
        save_file(rows, folder / name, metadata={n: str(3 * k if n.endswith("w") else k) for n in rows})
    state = {
        "state_dict": {"w": {SPLIT: "state_dict/w"}, "buffer": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": {SPLIT: "optimizer_states/0/state/0/exp_avg"}, "step": 3}}}],
        "betas": (0.9, 0.99), "pytorch-lightning_version": "2.6",
        FILES: names, SHAPES: {"state_dict/w": [7, 5], "optimizer_states/0/state/0/exp_avg": [2]},
    }  # fmt: skip
    torch.save(state, folder / STATE)
    return folder


class Mesh:
    """One rank of many, without the others."""

    device_type, ndim = "cpu", 1

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks

    def size(self, dim):
        return self.ranks

    def get_local_rank(self, dim):
        return self.rank


def test_one_process_reads_whole_tensors(folder):
    found = read_folder(folder)
    assert torch.equal(found["state_dict"]["w"], WEIGHT) and torch.equal(
        found["state_dict"]["buffer"], torch.ones(2)
    )
    kept = found["optimizer_states"][0]["state"][0]
    assert torch.equal(kept["exp_avg"], SHORT) and kept["step"] == 3 and found["betas"] == (0.9, 0.99)
    assert FILES not in found and SHAPES not in found


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 9])
def test_any_number_of_ranks_reads_its_rows(folder, ranks, monkeypatch):
    monkeypatch.setattr(checkpoint_folder, "from_rows", lambda rows, shape, mesh: rows)
    parts = [read_folder(folder, Mesh(rank, ranks)) for rank in range(ranks)]
    assert torch.equal(torch.cat([part["state_dict"]["w"] for part in parts]), WEIGHT)
    kept = [part["optimizer_states"][0]["state"][0]["exp_avg"] for part in parts]
    assert torch.equal(torch.cat(kept), SHORT)
    chunks = WEIGHT.chunk(ranks)  # as FSDP2 splits
    assert all(torch.equal(part["state_dict"]["w"], chunk) for part, chunk in zip(parts, chunks))


def test_values_alone_are_read_without_tensors(folder):
    found = read_folder(folder, tensors=False)
    assert found["state_dict"]["w"].is_meta and found["state_dict"]["w"].shape == (7, 5)


def checkpoint(mesh, value):
    weight = from_rows(torch.full((4, 2), float(value)), torch.Size((4, 2)), mesh)
    return {
        "state_dict": {"w": weight, "half": torch.ones(1, dtype=torch.bfloat16)},
        "names": ["a", {"b": 1}],
    }


def test_what_is_written_is_read_again_and_replaces_what_was_there(tmp_path, mesh):
    folder = tmp_path / "last.ckpt"
    for value in (1, 2):
        write_folder(checkpoint(mesh, value), folder, mesh)
    assert len(list(folder.iterdir())) == 2
    found, split = read_folder(folder), read_folder(folder, mesh)
    assert torch.equal(found["state_dict"]["w"], torch.full((4, 2), 2.0)) and found["names"] == [
        "a",
        {"b": 1},
    ]
    assert isinstance(split["state_dict"]["w"], DTensor)
    assert torch.equal(split["state_dict"]["w"].full_tensor(), found["state_dict"]["w"])
    assert found["state_dict"]["half"].dtype == torch.bfloat16


def test_until_the_last_file_is_there_the_old_checkpoint_counts(tmp_path, mesh):
    folder = tmp_path / "last.ckpt"
    write_folder(checkpoint(mesh, 1), folder, mesh)
    part = Part(checkpoint(mesh, 2), mesh, "newer")
    part.write(folder)  # killed behind it
    assert read_folder(folder)["state_dict"]["w"][0, 0] == 1
    unfinished = (
        folder / ".older-00001-of-00002.safetensors.node7.42.tmp"
    )  # killed within it, on another machine
    unfinished.mkdir()
    (unfinished / ".tmp7a2bC9").write_bytes(bytes(10))
    part.commit(folder)
    assert read_folder(folder)["state_dict"]["w"][0, 0] == 2 and len(list(folder.iterdir())) == 2


def test_a_save_in_the_background_holds_the_values_of_its_beginning(tmp_path, mesh, monkeypatch):
    written = checkpoint(mesh, 1)
    save = BackgroundSave(Part(written, mesh, "token"), tmp_path / "last.ckpt", True)
    with torch.no_grad():
        written["state_dict"]["w"].to_local().fill_(5.0)  # training goes on
    save.finish()
    assert read_folder(tmp_path / "last.ckpt")["state_dict"]["w"][0, 0] == 1

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_folder, "save_file", full)
    save = BackgroundSave(Part(checkpoint(mesh, 2), mesh, "other"), tmp_path / "last.ckpt", True)
    with pytest.raises(
        OSError, match="No space left on device: .*last.ckpt/other-00000-of-00001.safetensors"
    ):
        save.finish()
    assert read_folder(tmp_path / "last.ckpt")["state_dict"]["w"][0, 0] == 1


@pytest.mark.parametrize("comes", [True, False])
def test_rank_0_waits_for_the_files_of_others_and_gives_up_when_told(tmp_path, mesh, comes):
    part, folder = Part(checkpoint(mesh, 1), mesh, "token"), tmp_path / "last.ckpt"
    part.files = [*part.files, "token-of-another.safetensors"]
    save = BackgroundSave(part, folder, True)
    save._written.wait()
    save._thread.join(0.3)  # several times as long as it waits between two looks
    assert save._thread.is_alive() and not (folder / STATE).exists()
    if comes:
        save_file({}, folder / "token-of-another.safetensors")
    else:
        save._given_up.set()
    save.finish()
    assert (folder / STATE).exists() == comes


def damage(folder: Path, kind: str) -> None:
    first = sorted(folder.glob("*.safetensors"))[0]
    state = torch.load(folder / STATE, weights_only=True)
    if kind == "missing":
        first.unlink()
    elif kind == "cut":
        first.write_bytes(first.read_bytes()[:-8])
    elif kind == "foreign":
        save_file({}, first)
    elif kind == "no state":
        (folder / STATE).unlink()
    elif kind == "state cut":
        (folder / STATE).write_bytes((folder / STATE).read_bytes()[:99])
    elif kind == "no shape":
        torch.save({**state, SHAPES: {}}, folder / STATE)
    elif kind == "elsewhere":
        torch.save({**state, FILES: ["../" + first.name]}, folder / STATE)
    else:
        torch.save({"state_dict": {}}, folder / STATE)


@pytest.mark.parametrize("kind, message", [
    ("missing", "its file 'ab-00000-of-00003.safetensors' is missing"),
    ("cut", "its file 'ab-00000-of-00003.safetensors' is damaged or cut"),
    ("foreign", "lacks rows of 'state_dict/w': its files do not belong together"),
    ("no state", "lacks state.ckpt: it was never completed, or is another folder"),
    ("state cut", "state.ckpt' is damaged or no checkpoint"),
    ("elsewhere", "names '../ab-00000-of-00003.safetensors', which is no file beside it"),
    ("no shape", "does not say the shape of 'state_dict/w'"),
    ("empty", "does not say which files belong to it"),
])  # fmt: skip
def test_damage_is_named(folder, kind, message):
    damage(folder, kind)
    with pytest.raises(ValueError) as error:
        read_folder(folder)
    assert message in str(error.value) and str(folder) in str(error.value)
