"""A preset knows what it was trained on, and says in one line where an input differs."""

import pytest
import torch

from lightning_modules import from_config
from scene4d.pipelines import Sampling, TrainedOn
from scene4d.pipelines.trained_on import plain_background
from scene4d.references import WAYS, reference_mask, way_of
from scene4d.types import SceneBatch

WHITE = (1.0, 1.0, 1.0)
SMALL = TrainedOn(64, [4], [9, 17], 12, WHITE, ["both"])


def grid(views=4, frames=17, size=64, fps=12.0, background=WHITE, references="both"):
    """An object before a plain background; frames that are not given are white."""
    images = torch.ones(1, views, frames, 3, size, size)
    reference = reference_mask(references, views, frames)[None]
    images[reference] = torch.tensor(background)[:, None, None]
    images[reference, :, size // 4 : size // 2, size // 4 : size // 2] = 0.3
    times = torch.arange(frames)[None] / fps
    return SceneBatch(images, None, times, reference, ["user"], ["scene"])


@pytest.mark.parametrize("frames", [9, 17])
def test_what_was_trained_on_is_not_worth_a_word(frames, caplog):
    SMALL.warn(grid(frames=frames))
    assert not caplog.records


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": 128}, "images of 128 x 128 pixels, trained on 64 x 64"),
        ({"views": 8}, "8 views, trained on 4"),
        ({"frames": 29}, "29 frames, trained on 9 or 17"),
        (
            {"references": "fixed_view"},
            "a fixed-view video alone, trained with both reference videos",
        ),
        ({"references": "none"}, "no reference video, trained with both reference videos"),
        ({"fps": 30.0}, "30 frames a second, trained on 12"),
        ({"fps": 6.0}, "6 frames a second, trained on 12"),
        (
            {"background": (230 / 255, 230 / 255, 1.0)},
            r"a plain background of colour \(230, 230, 255\), trained on \(255, 255, 255\) only",
        ),
    ],
)
def test_each_difference_is_said_once(change, message, caplog):
    trained = TrainedOn(64, [4], [9, 17], 12, WHITE, ["both"])
    trained.warn(grid(**change)), trained.warn(grid(**change))
    (record,) = caplog.records
    assert record.getMessage().startswith("the weights were trained on other inputs, expect a worse result: ")
    (found,) = trained.differences(grid(**change)).values()
    assert found == message.replace("\\", "")


def test_views_that_show_nothing_are_named():
    """As a capture whose files could not be decoded, or a single picture that was given several times."""
    noise = torch.rand(1, 3, 2, 3, 8, 8)
    batch = SceneBatch(
        noise, None, torch.zeros(1, 2), torch.ones(1, 3, 2, dtype=torch.bool), ["user"], ["scene"]
    )
    trained = TrainedOn(8)
    assert trained.differences(batch) == {}
    batch.images = noise.index_fill(1, torch.tensor([2]), 0.0)
    assert trained.differences(batch) == {"empty": "view 2 of 'scene' shows nothing but the colour (0, 0, 0)"}
    batch.images = noise[:, [0, 1, 1]]
    assert trained.differences(batch) == {"empty": "view 2 of 'scene' shows the same as view 1"}
    batch.reference = reference_mask("both", 3, 2)[None]  # what is not given is not looked at
    assert trained.differences(batch) == {}


def test_many_differences_are_one_line(caplog):
    TrainedOn(64, [4], [9, 17], 12, WHITE).warn(grid(size=32, views=2))
    (record,) = caplog.records
    assert "images of 32 x 32" in record.getMessage() and "; 2 views" in record.getMessage()


def test_a_hundred_scenes_of_one_kind_are_one_line(caplog):
    trained = TrainedOn(64, [4], [17], 12, WHITE)
    for k in range(5):
        trained.warn(grid(fps=24 + k / 10, background=(0.5 + k / 50, 0.5, 0.5)))
    trained.warn(grid(fps=24, views=2))
    first, second = (record.getMessage() for record in caplog.records)
    assert "24 frames a second" in first and "a plain background" in first
    assert second.endswith(": 2 views, trained on 4")


def test_only_what_is_stated_counts():
    assert TrainedOn(64).differences(grid(8, 29, 64, 50.0, (0.0, 0.5, 0.0))) == {}


def test_a_picture_that_is_filled_has_no_plain_background():
    batch = grid()
    assert plain_background(batch).tolist() == [1, 1, 1]
    batch.images[..., :6, :6] = 0.2  # an object that touches a corner
    assert plain_background(batch).tolist() == [1, 1, 1]
    batch.images[..., ::2] = 0.2
    assert plain_background(batch) is None


def test_the_shipped_presets_know(caplog):
    """So `predict`, the command line's and a notebook's, says it."""
    generator = from_config("configs/small/shipped_diffusion.yaml").generator
    assert generator.trained_on == SMALL
    reconstructor = from_config("configs/small/shipped_reconstruction.yaml").reconstructor
    assert reconstructor.trained_on == TrainedOn(64, [4, 5])
    generator.sampling = Sampling(1)
    generator(grid(2, 5, 32))
    assert "images of 32 x 32 pixels, trained on 64 x 64; 2 views, trained on 4; 5 frames" in caplog.text
    caplog.clear()
    reconstructor(grid(2, 1, 32))
    assert "images of 32 x 32 pixels, trained on 64 x 64; 2 views, trained on 4 or 5" in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_the_way_of_a_mask(way):
    assert way_of(reference_mask(way, 4, 9)) == way


def test_sizes_may_be_height_and_width():
    """The grids of a size are high times wide; a square is told from them."""
    wide = grid()
    wide.images = wide.images[..., :36, :]
    assert TrainedOn((36, 64)).differences(wide) == {}
    assert TrainedOn((64, 36)).differences(wide) == {"size": "images of 36 x 64 pixels, trained on 64 x 36"}


def test_each_scene_s_references_count_and_only_known_words_do():
    trained = TrainedOn(64, references=["both", "freeze_time"])
    assert trained.differences(grid(references="freeze_time")) == {}
    assert trained.differences(grid(references="fixed_view")) == {
        "references": "a fixed-view video alone, trained with both reference videos or a freeze-time video alone"
    }
    with pytest.raises(ValueError, match="references holds 'all', expected some of both, fixed_view"):
        TrainedOn(64, references=["all"])
