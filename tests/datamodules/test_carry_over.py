import pytest

from datamodules.carry_over import carry_over
from datamodules.problems import Problems
from datamodules.shards import ShardStream, expand_urls


@pytest.fixture(scope="module")
def urls(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("carry")
    return expand_urls("objects", [shards(folder, shards=7, samples=3, views=1, frames=1, size=8)])


def walk(urls, worker, workers, count, place=(0, 0)):
    """(pass, key) of the next samples, and where the worker stands then."""
    stream = ShardStream("objects", urls, 7, worker, workers, Problems("objects"), 2, *place)
    samples, found = iter(stream), []
    for _ in range(count):
        key = next(samples)["__key__"]
        stream.accept()
        found.append(((stream.position * workers + worker) // len(urls), key))
    return found, [stream.position, stream.offset]


@pytest.mark.parametrize("counts", [[4], [5, 3], [0, 2], [20, 9, 14], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("new", [1, 2, 3, 5, 9])
def test_no_sample_of_a_pass_comes_twice(urls, counts, new):
    """Also when workers had come unequally far; what never comes is as many shards as is said."""
    old = [walk(urls, worker, len(counts), count) for worker, count in enumerate(counts)]
    states = [{"draws": n, "shards": [place]} if n else None for n, (_, place) in zip(counts, old)]
    made, lost = carry_over(states, new, period=5)
    seen = [key for found, _ in old for key in found]
    for worker, state in enumerate(made):
        seen += walk(urls, worker, new, 21, state["shards"][0])[0]
    assert len(set(seen)) == len(seen)
    first_pass = {key for number, key in seen if number == 0}
    whole = {
        shard for shard in range(7) if not any(key.startswith(f"objects_{shard}_") for key in first_pass)
    }
    assert len(whole) <= lost[0].untouched and lost[0].begun <= len(counts)
    assert 3 * 7 - len(first_pass) <= 3 * lost[0].untouched + 2 * lost[0].begun
    assert {state["draws"] % 5 for state in made} == {0}


def test_nothing_delivered_is_nothing_to_carry():
    assert carry_over([None, None], 3, 5) == ([None] * 3, [])


def test_uneven_workers():
    """Worker 0 has begun shards 0, 2, 4, worker 1 only 1: the next for all is 5."""
    states = [
        {"draws": 7, "shards": [[2, 3]], "unreadable": [2]},
        {"draws": 6, "shards": [[1, 0]], "unreadable": [1]},
    ]
    made, lost = carry_over(states, 3, 4)
    assert [state["shards"] for state in made] == [[[2, 0]], [[2, 0]], [[1, 0]]]  # 6, 7, 5
    assert [state["unreadable"] for state in made] == [[3], [0], [0]]
    assert {state["draws"] for state in made} == {8} and lost == [(1, 1)]
