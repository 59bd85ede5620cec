import logging
import tarfile
from itertools import islice

import pytest

from datamodules.shards import Problems, ShardStream, expand_urls, read_shard


def keys(stream, count):
    found = []
    for sample in islice(iter(stream), count):
        stream.accept()
        found.append(sample["__key__"])
    return found


def stream(urls, worker=0, workers=1, block=256, position=0, offset=0):
    return ShardStream("objects", urls, 7, worker, workers, Problems(), block, position, offset)


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


@pytest.mark.parametrize("pattern", ["nowhere-*.tar", "nowhere.tar", "objects-train-{000000..000002}.tar"])
def test_missing_shards_are_named(tmp_path, shards, pattern):
    shards(tmp_path)
    with pytest.raises(ValueError, match=r"source 'objects': no shard found at .*(nowhere|000002)"):
        expand_urls("objects", [str(tmp_path / pattern)])
    with pytest.raises(ValueError, match="'objects' has no shards"):
        expand_urls("objects", [])


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
def test_damaged_shard_is_counted_named_once_and_left(tmp_path, shards, how, caplog):
    urls = expand_urls("objects", [shards(tmp_path, shards=2, samples=3)])
    damage(tmp_path / "objects-train-000000.tar", how)
    broken = stream(urls)
    with caplog.at_level(logging.WARNING):
        for sample in islice(iter(broken), 20):
            assert sample["__key__"]
            broken.accept()
    assert broken.problems.counts[urls[0]] > 1 and urls[1] not in broken.problems.counts
    warnings = [record.getMessage() for record in caplog.records if urls[0] in record.getMessage()]
    assert len(warnings) == 1


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
    with pytest.raises(ValueError, match="source 'objects': no readable sample in any of its 3 shards"):
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
