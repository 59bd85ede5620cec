"""Scenes that no loss can use: which they are, that they are named once, and what is left of a batch."""

import logging

import pytest
import torch
from textured_wall import make_batch

from scene4d.geometry.useful_scenes import UsefulScenes, known_depths, refuse_useless, why_useless


def tripod(batch, k):
    batch.depths[k] = 0
    batch.cameras.c2w[k, :, :3, 3] = torch.tensor([3.0, 1.0, 2.0])


def set_to(name, value):
    def change(batch, k):
        tensors = {"images": batch.images, "depths": batch.depths, "c2w": batch.cameras.c2w}
        tensors["intrinsics"] = batch.cameras.intrinsics
        tensors[name][k].view(-1)[0] = value

    return change


def scaled(batch, k):
    batch.cameras.c2w[k, :, :3, :3] *= 7


USELESS = {
    "a tripod without depth": (tripod, "share one place"),
    "a pixel that is NaN": (set_to("images", torch.nan), "an image is not finite"),
    "a camera that is NaN": (set_to("c2w", torch.nan), "a camera is unknown or not finite"),
    "an infinite focal length": (set_to("intrinsics", torch.inf), "a camera is unknown or not finite"),
    "a zero focal length": (set_to("intrinsics", 0), "a focal length is not positive"),
    "a negative focal length": (set_to("intrinsics", -40), "a focal length is not positive"),
    "cameras scaled by 7": (scaled, "a camera is no rotation and translation"),
}


@pytest.mark.parametrize("kind", USELESS)
def test_one_of_three_is_left_out_and_named_once(kind, caplog):
    change, message = USELESS[kind]
    batch, scenes = make_batch(b=3, t=1), UsefulScenes()
    whole = batch.apply(torch.clone)
    change(batch, 1)
    reasons = why_useless(batch)
    assert reasons[0] == reasons[2] == "" and message in reasons[1]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            left = scenes.of(batch)
    assert left.keys == ["scene0", "scene2"] and scenes.left_out == {"objects": 2}
    assert torch.equal(left.images, whole.images[[0, 2]])
    assert torch.equal(left.cameras.c2w, whole.cameras.c2w[[0, 2]])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "source 'objects': skipped sample 'scene1', which no loss can use: "
    )
    with pytest.raises(ValueError, match=f"source 'objects', sample 'scene1': .*{message}"):
        refuse_useless(batch)


def test_good_batches_are_untouched_and_bad_ones_are_none():
    batch, scenes = make_batch(b=2), UsefulScenes()
    assert scenes.of(batch) is batch
    tripod(batch, 0), tripod(batch, 1)
    assert scenes.of(batch) is None


def test_a_tripod_with_depth_and_moving_cameras_without_can_be_used():
    batch = make_batch(b=2)
    batch.cameras.c2w[0, :, :3, 3] = 0
    batch.depths[1] = 0
    assert why_useless(batch) == ["", ""]
    batch.depths = None
    assert [bool(why) for why in why_useless(batch)] == [True, False]


def test_geometry_needs_depth_at_every_timestep():
    batch = make_batch(b=2, t=3)
    batch.depths[1, :, 1] = 0
    assert why_useless(batch) == ["", ""]
    assert why_useless(batch, depth=True) == ["", "no depth is known at a timestep of its input views"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -1.0])
def test_a_bad_pixel_of_depth_is_unknown_and_named(value, caplog):
    batch, scenes = make_batch(b=2, t=1), UsefulScenes()
    before = batch.depths.clone()
    batch.depths[1, 0, 0, 16, 16] = value
    assert scenes.of(batch) is batch  # the scene is of use
    before[1, 0, 0, 16, 16] = 0
    assert torch.equal(known_depths(batch), before)
    assert "sample 'scene1': depth of 1 pixels is negative or not finite" in caplog.text


def test_a_source_of_nothing_but_useless_scenes_ends_training():
    scenes, batch = UsefulScenes(), make_batch(b=2, t=1)
    batch.source = ["objects", "clips"]
    tripod(batch, 1)
    for _ in range(99):
        assert scenes.of(batch).source == ["objects"]
    with pytest.raises(ValueError, match="source 'clips': none of its first 100 scenes can be used"):
        scenes.of(batch)
    good = UsefulScenes()
    good.of(make_batch(t=1))
    batch.source = ["objects", "objects"]
    for _ in range(300):
        good.of(batch)
    assert good.left_out == {"objects": 300}


def test_only_input_views_tell_the_unit_of_length():
    batch = make_batch(b=1, t=1)
    assert why_useless(batch) == [""]
    batch.depths[:, : batch.inputs] = 0  # the target keeps its depth and its place
    batch.cameras.c2w[:, : batch.inputs, :3, 3] = torch.tensor([3.0, 1.0, 2.0])
    (why,) = why_useless(batch)
    assert "share one place" in why
