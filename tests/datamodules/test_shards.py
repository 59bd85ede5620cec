import tarfile
from itertools import islice

import pytest

from datamodules import shards as module
from datamodules.problems import Problems
from datamodules.shards import ShardStream, expand_urls, read_shard


def keys(stream, count):
    found = []
    for sample in islice(iter(stream), count):
        stream.accept()
        found.append(sample["__key__"])
    return found


def stream(urls, worker=0, workers=1, block=256, position=0, offset=0):
    return ShardStream("objects", urls, 7, worker, workers, Problems("objects"), block, position, offset)


def test_urls_are_expanded(tmp_path, shards):
    pattern = shards(tmp_path, shards=3)
    files = [str(tmp_path / f"objects-train-{i:06d}.tar") for i in range(3)]
    assert expand_urls("objects", [pattern]) == files
    assert expand_urls("objects", [str(tmp_path / "objects-train-{000000..000002}.tar")]) == files
    remote = ["https://example.org/a-{0..1}.tar", "pipe:cat x.tar"]
    assert expand_urls("objects", remote) == [
        "https://example.org/a-0.tar",
        "https://example.org/a-1.tar",
        "pipe:cat x.tar",
    ]


@pytest.mark.parametrize("pattern", ["nowhere-*.tar", "nowhere.tar", "nowhere-{0..2}.tar"])
def test_missing_shards_are_named(tmp_path, shards, pattern):
    shards(tmp_path)
    with pytest.raises(ValueError, match=r"source 'objects': no shard found at .*nowhere"):
        expand_urls("objects", [str(tmp_path / pattern)])
    with pytest.raises(ValueError, match="'objects' has no shards"):
        expand_urls("objects", [])


def test_a_missing_shard_among_others_is_a_problem_of_reading(tmp_path, shards):
    shards(tmp_path)
    urls = expand_urls("objects", [str(tmp_path / "objects-train-{000000..000002}.tar")])
    assert len(urls) == 3
    found = stream(urls)
    assert len(keys(found, 12)) == 12 and found.problems.count >= 1
    assert {problem.name for problem in found.problems.take_news()} == {f"shard {urls[2]}"}


@pytest.mark.parametrize("block", [2, 256])
def test_every_epoch_holds_every_sample_once_in_another_order(tmp_path, shards, block):
    urls = expand_urls("objects", [shards(tmp_path, shards=3, samples=4)])
    found = keys(stream(urls, block=block), 36)
    epochs = [found[i : i + 12] for i in (0, 12, 24)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_share_every_epoch(tmp_path, shards, workers):
    """Whatever the number of workers, shards are dealt without gaps: any 3 in turn are one epoch."""
    urls = expand_urls("objects", [shards(tmp_path, shards=3, samples=2)])
    per_worker = [keys(stream(urls, worker, workers), 6) for worker in range(workers)]
    dealt = [per_worker[w][2 * k : 2 * k + 2] for k in range(3) for w in range(workers)]
    for epoch in range(workers):
        assert len({key for pair in dealt[3 * epoch : 3 * epoch + 3] for key in pair}) == 6


@pytest.mark.parametrize("block", [3, 256])
def test_resume_from_two_integers(tmp_path, shards, block):
    urls = expand_urls("objects", [shards(tmp_path, shards=3, samples=5)])
    whole = keys(stream(urls, 1, 2, block), 30)
    for taken in (1, 4, 5, 7, 15):
        first = stream(urls, 1, 2, block)
        keys(first, taken)
        resumed = stream(urls, 1, 2, block, first.position, first.offset)
        assert keys(resumed, 30 - taken) == whole[taken:]


def test_resume_at_the_end_of_the_only_shard(tmp_path, shards):
    urls = expand_urls("objects", [shards(tmp_path, shards=1, samples=2)])
    assert len(keys(stream(urls, offset=2), 2)) == 2


def damage(path, how):
    data = path.read_bytes()
    if how == "vanished":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": data[: len(data) * 2 // 3],
                "cut": data[:-10240],
                "garbage": b"x" * 5000,
                "empty": b"",
            }[how]
        )


@pytest.mark.parametrize("how", ["truncated", "garbage", "empty", "vanished"])
def test_damaged_shard_is_counted_named_once_and_left(tmp_path, shards, how):
    urls = expand_urls("objects", [shards(tmp_path, shards=2, samples=3)])
    damage(tmp_path / "objects-train-000000.tar", how)
    broken = stream(urls)
    for sample in islice(iter(broken), 20):
        assert sample["__key__"]
        broken.accept()
    assert broken.problems.count > 1
    assert [problem.name for problem in broken.problems.take_news()] == [f"shard {urls[0]}"]
    assert not broken.problems.take_news()


@pytest.mark.parametrize("how", ["truncated", "cut", "garbage", "empty", "vanished"])
def test_held_out_shard_must_be_whole(tmp_path, shards, how):
    urls = expand_urls("objects", [shards(tmp_path, shards=1)])
    damage(tmp_path / "objects-train-000000.tar", how)
    with pytest.raises(ValueError, match="objects-train-000000.tar"):
        list(read_shard(urls[0]))


def test_nothing_readable_names_the_source(tmp_path, shards):
    urls = expand_urls("objects", [shards(tmp_path, shards=3, samples=2)])
    for path in tmp_path.glob("*.tar"):
        damage(path, "garbage")
    with pytest.raises(ValueError, match="source 'objects': no readable sample in 3 of its 3 shards"):
        keys(stream(urls), 1)


def test_one_good_shard_among_bad_ones_is_enough(tmp_path, shards):
    urls = expand_urls("objects", [shards(tmp_path, shards=6, samples=2)])
    for url in urls[:5]:
        damage(tmp_path / url, "garbage")
    lucky = stream(urls, worker=1, workers=2)
    for sample in islice(iter(lucky), 20):
        assert sample["__key__"].startswith("objects_5")
        lucky.accept()


def test_a_tar_without_samples_is_a_problem(tmp_path):
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    with pytest.raises(ValueError, match="none.tar.*no samples"):
        list(read_shard(str(tmp_path / "none.tar")))


class Clock:
    """A clock that tests move."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_a_source_of_many_bad_shards_gives_up_in_time(tmp_path, shards, monkeypatch):
    """Not after all of them: with ten thousand that would take hours."""
    urls = expand_urls("objects", [shards(tmp_path, shards=30, samples=1)])
    for url in urls:
        damage(tmp_path / url, "garbage")
    clock, read = Clock(monkeypatch), []

    def slowly(url, problems, retry):
        clock.now += 10
        read.append((url, retry))
        yield from module_read(url, problems, retry)

    module_read = module.read_shard
    monkeypatch.setattr(module, "read_shard", slowly)
    with pytest.raises(ValueError, match="source 'objects': no readable sample in 3 of its 30 shards"):
        keys(stream(urls), 1)
    assert [retry for _, retry in read] == [True, True, True]


def test_an_unreachable_source_is_given_some_time(monkeypatch):
    clock, read = Clock(monkeypatch), []

    def refused(url, problems, retry):
        clock.now += 4 if retry else 0.1
        read.append(clock.now)
        problems.record(url, "connection refused")
        yield from ()

    monkeypatch.setattr(module, "read_shard", refused)
    with pytest.raises(ValueError, match="connection refused"):
        keys(stream(["http://nowhere/0.tar", "http://nowhere/1.tar"]), 1)
    assert module.PATIENCE_SECONDS < read[-1] - 100 < 60


def test_many_bad_samples_in_one_large_shard_give_up_in_time(tmp_path, shards, monkeypatch):
    clock = Clock(monkeypatch)
    patient = stream(expand_urls("objects", [shards(tmp_path, shards=1, samples=200, views=1, frames=1)]))
    with pytest.raises(ValueError, match="source 'objects': no readable sample.*of 3 views"):
        for sample in iter(patient):
            clock.now += 0.4
            patient.reject(sample, "not of 3 views")
    assert clock.now - 100 < 60
