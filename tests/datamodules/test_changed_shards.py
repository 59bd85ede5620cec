import json
from itertools import islice

import pytest
import torch

from datamodules.changed_shards import begin_new_pass, fingerprint
from datamodules.loader import ResumableLoader
from datamodules.mixture import Ingredient, MixedBatches
from datamodules.shards import expand_urls
from scene4d.types import SceneBatch

OBJECTS, PHYSICS = 6, 2  # shards, of 4 samples each


def read(members, rng):
    """A reader that decodes nothing; the second key shows the random state."""
    key = members["__key__"]
    nothing = torch.zeros(1, 1, 1, 3, 8, 8)
    reference = torch.zeros(1, 1, 1, dtype=torch.bool)
    return SceneBatch(nothing, None, torch.zeros(1, 1), reference, [key[:7]], [key, str(rng.random())])


@pytest.fixture(scope="module")
def urls(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("changed")
    tiny = {"views": 1, "frames": 1, "size": 8, "samples": 4}
    return {
        name: expand_urls(name, [shards(folder, name, shards=count, **tiny)])
        for name, count in (("objects", OBJECTS), ("physics", PHYSICS))
    }


def loader(urls, workers, objects=OBJECTS):
    weights = {"objects": 2.0, "physics": 1.0}
    ingredients = [
        Ingredient(name, paths[:objects] if name == "objects" else paths, weights[name], read)
        for name, paths in urls.items()
    ]
    return ResumableLoader(MixedBatches(ingredients, 3, seed=0), workers)


def take(batches, count):
    return [batch.keys for batch in islice(batches, count)]


def of(name, batches):
    """Keys of one source, without the random numbers beside them."""
    return [key for keys in batches for key in keys[::2] if key.startswith(name)]


def resumed(first, second):
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    return second


@pytest.mark.parametrize("workers", [0, 2])
def test_added_shards_begin_a_new_pass_of_their_source_only(urls, workers, caplog):
    whole = take(loader(urls, workers, objects=3), 20)
    first = loader(urls, workers, objects=3)
    assert take(first, 5) == whole[:5]
    rest = take(resumed(first, loader(urls, workers)), 15)
    assert of("physics", rest) == of("physics", whole[5:])
    assert [[key[:7] for key in keys[::2]] for keys in rest] == [
        [key[:7] for key in keys[::2]] for keys in whole[5:]
    ]
    everything = {f"objects_{shard}_{index}" for shard in range(OBJECTS) for index in range(4)}
    assert set(of("objects", rest)[:24]) == everything  # no worker is ahead of another here
    assert len(caplog.messages) == 1 and "source 'objects' has another list of shards" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_the_new_pass_has_an_order_of_its_own(urls, workers):
    first = loader(urls, workers, objects=3)
    take(first, 5)
    rest = take(resumed(first, loader(urls, workers)), 12)
    assert of("objects", rest) != of("objects", take(loader(urls, workers), 12))


@pytest.mark.parametrize("workers", [0, 2])
def test_unchanged_lists_and_old_states_go_on_exactly(urls, workers, caplog):
    whole, first = take(loader(urls, workers), 9), loader(urls, workers)
    take(first, 4)
    assert take(resumed(first, loader(urls, workers)), 5) == whole[4:]
    state = first.state_dict()
    del state["shard_lists"]
    old = loader(urls, workers)
    old.load_state_dict(state)
    assert take(old, 5) == whole[4:] and not caplog.messages


def test_before_the_first_batch_nothing_changes(urls, caplog):
    assert take(resumed(loader(urls, 0, objects=3), loader(urls, 0)), 5) == take(loader(urls, 0), 5)
    assert not caplog.messages


def test_another_number_of_workers_as_well(urls, caplog):
    first = loader(urls, 2, objects=3)
    take(first, 5)
    rest = take(resumed(first, loader(urls, 0)), 12)
    assert len(set(of("objects", rest))) == 24
    assert "objects: the rest of 0 begun shards and 0 whole shards" in caplog.text


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_new_pass_is_whole_and_unbegun(workers, count):
    """Place p of the endless list belongs to worker p % workers; the first ones are those of one pass."""
    states = [{"draws": 9, "shards": [[k + 2, 1], [5, 3]], "unreadable": [0, 1]} for k in range(workers)]
    states[-1] = states[-1] if workers == 1 else None
    made = begin_new_pass(states, 0, 2, fingerprint(["x"] * 2), fingerprint([str(k) for k in range(count)]))
    firsts = [state["shards"][0][0] * workers + worker for worker, state in enumerate(made)]
    assert min(firsts) % count == 0 and max(firsts) - min(firsts) == workers - 1
    assert min(firsts) // count > max(s["shards"][0][0] * workers + w for w, s in enumerate(states) if s) // 2
    assert made[0]["shards"][1] == [5, 3] and made[0]["draws"] == 9
    assert states[0]["shards"][0] == [2, 1]


def test_fingerprint_depends_on_names_and_order():
    assert len({fingerprint(urls) for urls in (["a", "b"], ["b", "a"], ["a"], ["a", "c"])}) == 4
