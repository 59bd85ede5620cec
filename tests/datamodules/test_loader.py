import json
import multiprocessing
import os
import socket
from itertools import islice

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from datamodules.loader import ResumableLoader
from datamodules.mixture import Ingredient, MixedBatches
from datamodules.shards import expand_urls
from scene4d.types import SceneBatch


def read(members, rng):
    """A reader that decodes nothing; the second key shows the random state."""
    key = members["__key__"]
    return SceneBatch(
        images=torch.zeros(1, 1, 1, 3, 8, 8),
        cameras=None,
        frame_times=torch.zeros(1, 1),
        reference=torch.zeros(1, 1, 1, dtype=torch.bool),
        source=[key.split("_")[0]],
        keys=[key, str(rng.random())],
    )


def loader(urls, workers, seed=0):
    ingredients = [Ingredient(name, paths, weight, read) for name, (paths, weight) in urls.items()]
    return ResumableLoader(MixedBatches(ingredients, 3, seed), workers)


@pytest.fixture(scope="module")
def urls(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("loader")
    tiny = {"views": 1, "frames": 1, "size": 8}
    return {
        name: (expand_urls(name, [shards(folder, name, shards=count, samples=4, **tiny)]), weight)
        for name, count, weight in (("objects", 3, 2.0), ("physics", 1, 1.0))
    }


def take(batches, count):
    return [batch.keys for batch in islice(batches, count)]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_resume_goes_on_with_the_next_batch(urls, workers):
    """Also when workers had prepared more than was taken, and twice in a row."""
    whole = take(loader(urls, workers), 14)
    first = loader(urls, workers)
    assert take(first, 5) == whole[:5]
    second = loader(urls, workers)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert take(second, 4) == whole[5:9]
    third = loader(urls, workers)
    third.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert take(third, 5) == whole[9:]


def test_next_epoch_goes_on(urls):
    whole, parts = take(loader(urls, 2), 10), loader(urls, 2)
    assert take(parts, 3) + take(parts, 7) == whole


def test_workers_share_the_samples(urls):
    """Two workers together see a balanced mixture and different samples."""
    found = take(loader(urls, 2), 8)
    names = [key for keys in found for key in keys[::2]]
    assert abs(sum(name.startswith("objects") for name in names) - 16) <= 2
    assert len({key for keys in found for key in keys[1::2]}) == 24


@pytest.mark.parametrize("new", [(1, 0), (1, 3), (2, 2), (5, 0)])
def test_shares_are_exact_after_another_number_of_ranks_or_workers(urls, new, monkeypatch):
    """The ranks one after the other in this process; every worker told that it is a rank of its own."""
    first = loader(urls, 2)
    take(first, 5)
    state = first.state_dict()
    for rank in range(new[0]):
        monkeypatch.setattr("datamodules.loader.rank_and_world", lambda rank=rank: (rank, new[0]))
        resumed = loader(urls, new[1])
        resumed.load_state_dict(state)
        workers = len(resumed._states)
        for worker, place in enumerate(resumed._states):
            mixture = loader(urls, 0).dataset
            mixture.place(rank * workers + worker, new[0] * workers, 0, [place])
            names = [name for delivery in islice(iter(mixture), 9) for name in delivery.batch.source]
            assert all(abs(names[:k].count("objects") - k * 2 / 3) <= 1 for k in range(len(names)))


def test_what_is_left_out_is_said(urls, caplog):
    first = loader(urls, 2)
    take(first, 5)
    loader(urls, 0).load_state_dict(first.state_dict())
    assert "saved by 1 ranks x 2 workers, now there are 1 x 1" in caplog.text
    assert "objects: the rest of 2 begun shards and 0 whole shards; physics: the rest of" in caplog.text


def test_other_sources_start_from_the_beginning_with_a_warning(urls, caplog):
    first = loader(urls, 0)
    take(first, 3)
    only_objects = {"objects": urls["objects"]}
    second = loader(only_objects, 0)
    second.load_state_dict(first.state_dict())
    assert "['objects', 'physics'], now they are ['objects']" in caplog.text
    assert take(second, 3) == take(loader(only_objects, 0), 3)


def test_unreadable_source_raises_one_line_also_from_a_worker(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"x" * 3000)
    for workers in (0, 1):
        broken = loader({"objects": ([str(tmp_path / "bad.tar")], 1.0)}, workers)
        with pytest.raises(ValueError, match="^source 'objects': no readable sample[^\n]*$"):
            next(iter(broken))


def run_rank(rank, urls, port, folder):
    multiprocessing.set_start_method("fork", force=True)  # of the data workers: they start at once
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for workers in (0, 2):
        whole = take(loader(urls, workers), 8)
        first = loader(urls, workers)
        head = take(first, 3)
        state = json.loads(json.dumps(first.state_dict()))
        second = loader(urls, workers)
        second.load_state_dict(state)
        found[workers] = {"whole": whole, "resumed": head + take(second, 5), "state": state}
    with open(os.path.join(folder, f"rank{rank}.json"), "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()


def test_two_ranks(urls, tmp_path):
    """Every rank finds its own place again although a checkpoint holds the state of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run_rank, (urls, port, str(tmp_path)), nprocs=2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for workers in ("0", "2"):
        first, second = (rank[workers] for rank in ranks)
        assert first["whole"] == first["resumed"] and second["whole"] == second["resumed"]
        assert first["whole"] != second["whole"]
        assert first["state"] == second["state"] and len(first["state"]["ranks"]) == 2
