import io
import json
import tarfile
from dataclasses import replace
from itertools import islice
from random import Random

import av
import numpy as np
import pytest
import torch
import webdataset as wds

from datamodules.mixture import Ingredient, MixedBatches
from datamodules.references import ReferencePolicy
from datamodules.selection import GridSelection
from datamodules.shards import expand_urls
from datamodules.sources import GridReader, Source
from scene4d.sample_format import encode_sample
from scene4d.sample_pictures import encode_video
from scene4d.types import SceneBatch

WEIGHTS = {"objects": 0.4, "physics": 0.2, "homography": 0.2, "static": 0.2}


def name_only(members, rng):
    """A reader that decodes nothing."""
    key = members["__key__"]
    return SceneBatch(
        images=torch.zeros(1, 1, 1, 3, 8, 8),
        cameras=None,
        frame_times=torch.zeros(1, 1),
        reference=torch.zeros(1, 1, 1, dtype=torch.bool),
        source=[key.split("_")[0]],
        keys=[key, str(rng.random())],
    )


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("mixture")
    made = []
    for count, (name, weight) in enumerate(WEIGHTS.items(), 1):
        still = {"views": 1, "frames": 1, "size": 8}
        urls = expand_urls(name, [shards(folder, name, shards=count, samples=2, **still)])
        made.append(Ingredient(name, urls, weight, name_only))
    return made


def sources_of(deliveries):
    return [name for delivery in deliveries for name in delivery.batch.source]


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_every_prefix_is_exact_on_every_rank(ingredients, ranks):
    for rank in range(ranks):
        mixture = MixedBatches(ingredients, batch_size=3, seed=0)
        mixture.place(rank, ranks, 0, [])
        counts = dict.fromkeys(WEIGHTS, 0)
        for k, name in enumerate(sources_of(islice(iter(mixture), 40)), 1):
            counts[name] += 1
            assert all(abs(counts[s] - k * WEIGHTS[s]) <= 1 + 1e-9 for s in WEIGHTS), (rank, k, counts)


def test_ranks_start_at_different_places(ingredients):
    first = []
    for rank in range(3):
        mixture = MixedBatches(ingredients, batch_size=5, seed=0)
        mixture.place(rank, 3, 0, [])
        first.append(next(iter(mixture)).batch)
    assert len({tuple(batch.source) for batch in first}) == 3
    assert len({key for batch in first for key in batch.keys[1::2]}) == 15  # all random numbers differ


def test_state_is_plain_integers_and_resumes_exactly(ingredients):
    mixture = MixedBatches(ingredients, batch_size=3, seed=5)
    whole = list(islice(iter(mixture), 30))
    for taken in (1, 7, 20):
        state = json.loads(json.dumps(whole[taken - 1].state))
        resumed = MixedBatches(ingredients, batch_size=3, seed=5)
        resumed.place(0, 1, taken, [state])
        for a, b in zip(whole[taken:], resumed):
            assert a.batch.keys == b.batch.keys and a.state == b.state


def test_another_seed_is_another_order(ingredients):
    keys = [
        [d.batch.keys for d in islice(iter(MixedBatches(ingredients, batch_size=4, seed=s)), 5)]
        for s in (0, 1)
    ]
    assert keys[0] != keys[1]


def without_checksums(members):
    meta = json.loads(members["meta.json"])
    del meta["crc32"]
    return {**members, "meta.json": json.dumps(meta).encode()}


def real_reader(name="objects"):
    selection = GridSelection(views=4, view_strides=[1], frames=5)
    return GridReader(Source(name, [], selection, references=ReferencePolicy()), (16, 16), True, 8)


def test_source_with_only_bad_samples_ends_training_in_one_line(tmp_path, scene):
    with wds.TarWriter(str(tmp_path / "bad.tar")) as tar:
        short = encode_video(np.zeros((3, 16, 16, 3), np.uint8), 12)
        tar.write({**without_checksums(encode_sample(scene("only"))), "view_01.mp4": short})
    ingredient = Ingredient("objects", [str(tmp_path / "bad.tar")], 1, real_reader())
    delivery = next(iter(MixedBatches([ingredient], batch_size=1, seed=0)))
    assert delivery.batch is None and "\n" not in delivery.error
    assert "source 'objects': no readable sample" in delivery.error and "meta.json says" in delivery.error


def test_grids_of_different_shapes_cannot_share_a_batch(tmp_path, shards):
    readers = {
        "objects": GridReader(Source("objects", [], GridSelection(4, [1], 5)), (16, 16), True, 0),
        "physics": GridReader(Source("physics", [], GridSelection(3, [1], 5)), (16, 16), True, 0),
    }
    ingredients = [
        Ingredient(name, expand_urls(name, [shards(tmp_path, name)]), 1, reader)
        for name, reader in readers.items()
    ]
    delivery = next(iter(MixedBatches(ingredients, batch_size=2, seed=0)))
    assert "cannot share a batch" in delivery.error


SHAPES = {"objects": (4, 9), "physics": (4, 9), "homography": (4, 17), "static": (1, 33)}


@pytest.fixture
def bucketed(ingredients):
    return [replace(item, shape=SHAPES[item.name]) for item in ingredients]


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_batch_has_one_shape_and_the_shares_stay_exact(bucketed, ranks):
    """Buckets of 60%, 20% and 20%; at every step all ranks draw from the same."""
    steps = []
    for rank in range(ranks):
        mixture = MixedBatches(bucketed, batch_size=3, seed=0)
        mixture.place(rank, ranks, 0, [])
        batches = [delivery.batch.source for delivery in islice(iter(mixture), 50)]
        steps.append([{SHAPES[name] for name in names} for names in batches])
        for k in range(1, 51):
            for shape, share in (((4, 9), 0.6), ((4, 17), 0.2), ((1, 33), 0.2)):
                assert abs(steps[-1][:k].count({shape}) - k * share) <= 1 + 1e-9
        inside = [name for names in batches for name in names if SHAPES[name] == (4, 9)]
        assert all(abs(inside[:k].count("objects") - k * 2 / 3) <= 1 for k in range(len(inside)))
    assert all(step == steps[0] for step in steps)


def test_buckets_resume_exactly(bucketed):
    whole = list(islice(iter(MixedBatches(bucketed, batch_size=3, seed=5)), 20))
    for taken in (1, 7):
        resumed = MixedBatches(bucketed, batch_size=3, seed=5)
        resumed.place(0, 1, taken, [json.loads(json.dumps(whole[taken - 1].state))])
        assert all(a.batch.keys == b.batch.keys for a, b in zip(whole[taken:], resumed))


def test_nothing_is_unpickled(tmp_path, scene):
    """A member that would run code when unpickled stays bytes."""
    hostile = b"cos\nsystem\n(S'exit 3'\ntR."
    with tarfile.open(tmp_path / "hostile.tar", "w") as tar:
        for name, data in {**encode_sample(scene("one")), "evil.pyd": hostile, "evil.pkl": hostile}.items():
            if name != "__key__":
                info = tarfile.TarInfo(f"one.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    ingredient = Ingredient("objects", [str(tmp_path / "hostile.tar")], 1, real_reader())
    assert next(iter(MixedBatches([ingredient], batch_size=1, seed=0))).batch.keys == ["one"]


def test_only_selected_views_are_decoded(tmp_path, scene, monkeypatch):
    opened = []
    real_open = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(1) or real_open(*args, **kwargs))
    members = encode_sample(scene("one", views=6))
    opened.clear()
    source = Source("objects", [], GridSelection(views=2, view_strides=[1], frames=5, random=False))
    read = GridReader(source, (16, 16), False, cache_mb=0)
    read(members, Random(0))
    assert len(opened) == 2
