from random import Random

import pytest

from datamodules.selection import ContextSelection, Extent, GridSelection

MOVING = Extent("moving", views=8, frames=29, depth_frames=list(range(0, 29, 4)))
STILL = Extent("still", views=8, frames=1, depth_frames=[0])


def draws(selection, extent, count=200):
    rng = Random(0)
    return [selection.select(extent, rng) for _ in range(count)]


def steps(indices):
    return {b - a for a, b in zip(indices, indices[1:])}


@pytest.mark.parametrize("frames", [0, 2, 4, 16, 18])
def test_frames_not_4k_plus_1_are_refused(frames):
    with pytest.raises(ValueError, match=rf"{frames} frames, expected 4k \+ 1"):
        GridSelection(frames=frames)


def test_grid_is_regular_in_range_and_varied():
    selection = GridSelection(views=4, view_strides=[1, 2], frames=9, frame_strides=[1, 3], reverse_time=0.5)
    found = draws(selection, MOVING)
    for grid in found:
        assert len(grid.views) == 4 and len(grid.frames) == 9 and grid.reference is None
        assert len(steps(grid.views)) == 1 and 0 <= min(grid.views) and max(grid.views) < 8
        assert steps(grid.frames) in ({grid.frame_stride}, {-grid.frame_stride})
        assert 0 <= min(grid.frames) and max(grid.frames) < 29
    assert {step for grid in found for step in steps(grid.views)} == {1, 2, -1, -2}
    assert {step for grid in found for step in steps(grid.frames)} == {1, 3, -1, -3}
    assert {min(grid.frames) for grid in found if grid.frame_stride == 3} == set(range(5))


def test_reverse_probability():
    found = draws(GridSelection(reverse_views=0.25, view_strides=[1]), MOVING, 2000)
    assert sum(grid.views[0] > grid.views[1] for grid in found) / 2000 == pytest.approx(0.25, abs=0.03)
    assert all(grid.frames[0] < grid.frames[1] for grid in found)


def test_strides_that_do_not_fit_are_left_out():
    found = draws(GridSelection(views=5, view_strides=[1, 2], reverse_views=0), MOVING)
    assert {frozenset(steps(grid.views)) for grid in found} == {frozenset({1})}


def test_still_scene_is_repeated_over_time():
    grid = GridSelection(frames=9).select(STILL, Random(0))
    assert grid.frames == [0] * 9


def test_evaluation_grid_is_fixed():
    selection = GridSelection(views=4, view_strides=[2, 1], frames=9, reverse_views=1.0, random=False)
    for grid in draws(selection, MOVING, 5):
        assert grid.views == [0, 2, 4, 6] and grid.frames == list(range(9))


@pytest.mark.parametrize(
    "selection, message",
    [
        (GridSelection(views=9), "'moving' has 8 views.*asks for 9"),
        (GridSelection(frames=33), "'moving' has 29 frames.*asks for 33"),
        (ContextSelection(inputs=6, targets=3), "'moving' has 8 views.*asks for 9"),
        (ContextSelection(frames=9), "'moving' has 8 usable frames.*asks for 9"),
        (ContextSelection(input_views=[0, 8], target_views=[1]), "'moving' has 8 views"),
    ],
)
def test_asking_for_more_than_stored_names_the_sample(selection, message):
    with pytest.raises(ValueError, match=message):
        selection.select(MOVING, Random(0))


def test_targets_lie_between_the_inputs():
    found = draws(ContextSelection(inputs=4, targets=2), MOVING)
    for grid in found:
        inputs, targets = grid.views[:4], grid.views[4:]
        assert len(set(grid.views)) == 6
        assert min(inputs) < min(targets) and max(targets) < max(inputs)
        assert grid.reference.shape == (6, 1) and grid.reference[:4].all() and not grid.reference[4:].any()
    ordered = [grid.views[:4] == sorted(grid.views[:4]) for grid in found]
    assert 0.4 < sum(ordered) / len(ordered) < 0.65
    assert {view for grid in found for view in grid.views[4:]} == set(range(1, 7))


def test_reconstruction_takes_only_frames_with_depth():
    found = draws(ContextSelection(frames=4, frame_strides=[4, 8]), MOVING)
    assert all(frame % 4 == 0 for grid in found for frame in grid.frames)
    assert {grid.frames[0] for grid in found if grid.frame_stride == 4} == {0, 4, 8, 12, 16}
    free = draws(ContextSelection(frames=4, depth_frames_only=False), MOVING)
    assert any(frame % 4 for grid in free for frame in grid.frames)
    without_depth = draws(ContextSelection(frames=4), Extent("capture", 8, 29))
    assert any(frame % 4 for grid in without_depth for frame in grid.frames)


def test_reconstruction_evaluation_views():
    fixed = ContextSelection(input_views=[0, 2, 5, 7], target_views=[1, 3, 4, 6], frames=4, random=False)
    even = ContextSelection(inputs=4, targets=4, frames=4, random=False)
    for selection in (fixed, even):
        for grid in draws(selection, MOVING, 3):
            assert grid.views == [0, 2, 5, 7, 1, 3, 4, 6] and grid.frames == [0, 4, 8, 12]
            assert grid.reference.shape == (8, 4) and grid.reference[:4].all()
    assert fixed.select(STILL, Random(0)).frames == [0, 0, 0, 0]


def test_contradicting_views_are_refused():
    with pytest.raises(ValueError, match="both or neither"):
        ContextSelection(input_views=[0, 1])
    with pytest.raises(ValueError, match=r"\[1\] are input and target"):
        ContextSelection(input_views=[0, 1], target_views=[1, 2])
    with pytest.raises(ValueError, match="view_strides"):
        GridSelection(view_strides=[0])
