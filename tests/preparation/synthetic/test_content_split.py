import pytest

from preparation.synthetic.content_split import content_groups, family, held_out_groups, select_split


@pytest.mark.parametrize(
    "stem, expected",
    [
        ("little_lamp3", "little_lamp"),
        ("rock2a", "rock"),
        ("desk-01", "desk"),
        ("chair", "chair"),
        ("7", "7"),
    ],
)
def test_family_drops_the_variant(stem, expected):
    assert family(stem) == expected


def test_assets_that_share_something_indirectly_form_one_group():
    groups = content_groups({"a": {"1"}, "b": {"1", "2"}, "c": {"2"}, "d": {"3"}})
    assert groups == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_splits_are_disjoint_complete_and_by_group():
    groups = content_groups({f"chair{k}": {f"wood{k // 2}"} for k in range(40)})
    train, val = select_split(groups, "train"), select_split(groups, "val")
    assert sorted(train + val) == sorted(groups)
    assert not {groups[name] for name in train} & {groups[name] for name in val}
    assert 5 <= len(val) <= 7


def test_large_groups_always_train():
    groups = {f"wooden{k}": "wooden" for k in range(30)} | {f"single{k}": f"single{k}" for k in range(10)}
    assert "wooden" not in held_out_groups(groups)


def test_one_group_cannot_be_split():
    with pytest.raises(
        ValueError, match=r"2 assets \(a, b\) form 1 content groups, .*at least 2 groups are needed"
    ):
        held_out_groups({"a": "a", "b": "a"})


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'test'"):
        select_split({"a": "a", "b": "b"}, "test")
