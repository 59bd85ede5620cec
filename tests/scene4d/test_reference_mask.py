import pytest
import torch

from scene4d.references import WAYS, are_both_given, reference_mask


def test_the_four_ways_of_giving_references():
    masks = {way: reference_mask(way, 3, 4) for way in WAYS}
    assert {way: int(mask.sum()) for way, mask in masks.items()} == {
        "both": 6, "fixed_view": 4, "freeze_time": 3, "none": 0
    }  # fmt: skip
    assert masks["fixed_view"][0].all() and masks["freeze_time"][:, 0].all()
    assert are_both_given(torch.stack(list(masks.values()))).tolist() == [True, False, False, False]
    with pytest.raises(
        ValueError, match="references is 'all', expected one of both, fixed_view, freeze_time, none"
    ):
        reference_mask("all", 3, 4)
