"""Several mixtures one after the other: which one a batch comes from follows from its number alone."""

import json
from itertools import islice

import pytest
import torch

from datamodules import GridSelection, SceneDataModule, Source
from datamodules.loader import Part, ResumableLoader
from datamodules.mixture import Ingredient, MixedBatches
from datamodules.shards import expand_urls
from scene4d.stages import Stage
from scene4d.types import SceneBatch


def read(frames):
    def grid(members, rng):
        return SceneBatch(
            torch.zeros(1, 1, frames, 3, 8, 8), None, torch.zeros(1, frames), torch.zeros(1, 1, frames) > 0,
            ["objects"], [members["__key__"], str(rng.random())],
        )  # fmt: skip

    return grid


@pytest.fixture(scope="module")
def urls(tmp_path_factory, shards):
    return expand_urls(
        "objects",
        [
            shards(
                tmp_path_factory.mktemp("staged"), "objects", shards=3, samples=5, views=1, frames=1, size=8
            )
        ],
    )


def loader(urls, workers, parts=((2, 1, 1, 3), (1, 2, 5, None))):
    """Parts of (batch size, accumulated, frames, until)."""
    made = [
        Part(MixedBatches([Ingredient("objects", urls, 1.0, read(frames))], size, 0), accumulated, until)
        for size, accumulated, frames, until in parts
    ]
    return ResumableLoader(made, workers)


def take(batches, count):
    return [(batch.images.shape[2], batch.keys) for batch in islice(batches, count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_in_its_stage(urls, workers):
    """Before, at and behind the boundary; the second stage goes on in the same pass over the shards."""
    whole = take(loader(urls, workers), 9)
    assert [frames for frames, _ in whole] == [1] * 3 + [5] * 6
    assert len({key for _, keys in whole for key in keys[::2]}) == 12  # of 15 samples, none twice
    for stop in (2, 3, 4):
        first, second = loader(urls, workers), loader(urls, workers)
        assert take(first, stop) == whole[:stop]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert take(second, 9 - stop) == whole[stop:]


def test_another_number_of_workers_goes_on_in_the_stage_of_its_step(urls):
    first = loader(urls, 0)
    seen = take(first, 5)  # three steps of stage 1, one step of two batches of stage 2
    assert first.state_dict()["steps"] == 4 and first.batches_before(4) == 5
    second = loader(urls, 2)
    second.load_state_dict(first.state_dict())
    rest = take(second, 2)
    assert [frames for frames, _ in rest] == [5, 5]
    assert not {k for _, keys in rest for k in keys[::2]} & {k for _, keys in seen for k in keys[::2]}
    third = loader(urls, 2, ((2, 2, 1, 3), (2, 1, 5, None)))  # other batches: 6 of them come before step 3
    third.load_state_dict(loader(urls, 0).state_dict() | {"ranks": first.state_dict()["ranks"], "steps": 2})
    assert [frames for frames, _ in take(third, 3)] == [1, 1, 5]


def test_other_batches_or_stages_go_on_at_the_same_step(urls):
    """With the same number of workers too: the stages end at their steps, not at the batches of before."""
    first = loader(urls, 0, ((2, 1, 1, 4), (1, 2, 5, None)))
    seen = take(first, 2)
    changed = loader(urls, 0, ((1, 2, 1, 4), (1, 2, 5, None)))  # 8 batches come before step 4, 4 are left
    changed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = take(changed, 6)
    assert [frames for frames, _ in rest] == [1] * 4 + [5] * 2
    assert not {k for _, keys in rest for k in keys[::2]} & {k for _, keys in seen for k in keys[::2]}
    within = loader(urls, 0, ((2, 3, 1, 4), (2, 1, 5, None)))
    take(within, 4)  # one step and a batch
    again = loader(urls, 0, ((2, 3, 1, 4), (2, 1, 5, None)))
    again.load_state_dict(json.loads(json.dumps(within.state_dict())))
    assert take(again, 1) == take(within, 1) and again.state_dict() == within.state_dict()


def module(folder, **options):
    selection = GridSelection(views=2, view_strides=[1], frames=5)
    return SceneDataModule(
        train=[Source("objects", [f"{folder}/objects-train-*.tar"], selection)], size=32, num_workers=0, depth=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("lengths")
    shards(folder, "objects", shards=1, samples=4, views=3, frames=9, size=32)
    return folder


def batches(data):
    data.setup = lambda stage: None
    data._urls = {"train/objects": expand_urls("objects", data.train[0].urls)}
    return data.train_dataloader()


def test_stages_change_views_frames_and_batches(folder):
    data = module(
        folder, batch_size=2, global_batch=2, stages=[Stage(2), Stage(4, frames=9, views=3, batch_size=1)]
    )
    shapes = [tuple(batch.images.shape[:3]) for batch in islice(batches(data), 4)]
    assert shapes == [(2, 2, 5), (2, 2, 5), (1, 3, 9), (1, 3, 9)]


@pytest.mark.parametrize("options, line", [
    ({"stages": [Stage(2), Stage(4, frames=13)]},
     "stage 2: none of the first samples of source 'objects' can be used, .* has 9 frames"),
    ({"global_batch": 3}, "a global batch of 3 is no multiple of 1 ranks x batch_size 2 = 2"),
    ({"global_batch": 4, "stages": [Stage(3), Stage(6, batch_size=1)]},
     "stage 2 begins at step 3 after 6 batches, which must be a multiple of its 4 accumulated batches"),
    ({"stages": [Stage(2), Stage(1)]}, "stage 2 ends at step 1"),
])  # fmt: skip
def test_what_would_fail_in_a_later_stage_fails_at_the_start(folder, options, line):
    with pytest.raises(ValueError, match=line):
        batches(module(folder, batch_size=2, **options))
