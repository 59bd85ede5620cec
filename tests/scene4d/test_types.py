import pytest
import torch

from scene4d.types import Cameras, SceneBatch


def test_expanded_images_stay_one_number_when_they_move():
    images = torch.full((1, 1, 1, 1, 1, 1), torch.nan).expand(2, 3, 5, 3, 16, 16)
    batch = SceneBatch(
        images, None, torch.arange(10.0).view(2, 5), torch.ones(2, 3, 5) > 0, ["a", "b"], ["k", "l"]
    )
    moved = batch.to(dtype=torch.float64)
    assert moved.images.shape == images.shape and moved.images.untyped_storage().nbytes() == 8
    assert moved.frame_times.dtype == torch.float64 and torch.equal(
        moved.frame_times, batch.frame_times.double()
    )
    assert moved.reference.dtype == torch.bool


def test_one_sample_of_a_batch():
    images = torch.rand(2, 1, 5, 3, 8, 8)
    batch = SceneBatch(images, None, torch.zeros(2, 5), torch.ones(2, 1, 5) > 0, ["a", "b"], ["k", "l"])
    one = batch.sample(1)
    assert torch.equal(one.images, images[1:]) and (one.source, one.keys) == (["b"], ["l"])


def test_the_number_of_inputs_is_the_same_for_every_scene_of_a_batch():
    reference = torch.zeros(2, 3, 4, dtype=torch.bool)
    reference[:, :2] = True
    batch = SceneBatch(
        torch.rand(2, 3, 4, 3, 8, 8), None, torch.zeros(2, 4), reference, ["a", "b"], ["k", "l"]
    )
    assert batch.inputs == 2
    for given in (1, 0):
        batch.reference[0, given:] = False
        with pytest.raises(ValueError, match=rf"\[{given}, 2\]"):
            assert batch.inputs


def test_a_batch_shows_shapes_instead_of_numbers():
    cameras = Cameras(torch.eye(4).expand(2, 3, 4, 4), torch.eye(3).expand(2, 3, 3, 3))
    assert repr(cameras) == "Cameras(c2w: 2 3 4 4, intrinsics: 2 3 3 3)"


def test_scenes_of_a_batch_take_their_names_and_prompts_along() -> None:
    batch = SceneBatch(
        torch.arange(3.0).view(3, 1, 1, 1, 1, 1), None, torch.zeros(3, 1), torch.zeros(3, 1, 1).bool(),
        source=["a", "b", "c"], keys=["1", "2", "3"], prompts=["x", "y", "z"],
    )  # fmt: skip
    last, two = batch.sample(2), batch.scenes([2, 0])
    assert (last.source, last.keys, last.prompts, last.images.item()) == (["c"], ["3"], ["z"], 2.0)
    assert (two.source, two.prompts, two.images.flatten().tolist()) == (["c", "a"], ["z", "x"], [2.0, 0.0])
