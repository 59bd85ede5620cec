from collections import Counter
from random import Random

import numpy as np
import pytest

from datamodules.references import ReferencePolicy


def kind(mask):
    inner = mask[1:, 1:]
    assert not inner.any()
    row, column = mask[0, 1:], mask[1:, 0]
    assert row.all() == row.any() and column.all() == column.any()
    assert mask[0, 0] == (row.any() or column.any())
    return bool(row.any()), bool(column.any())


def test_frequencies():
    policy, rng = ReferencePolicy(both=0.5, fixed_view=0.25, freeze_time=0.15, none=0.1), Random(0)
    counts = Counter(kind(policy.draw(4, 5, rng)) for _ in range(4000))
    wanted = {(True, True): 0.5, (True, False): 0.25, (False, True): 0.15, (False, False): 0.1}
    for way, share in wanted.items():
        assert counts[way] / 4000 == pytest.approx(share, abs=0.025)


def test_default_gives_row_and_column():
    mask = ReferencePolicy().draw(3, 5, Random(0))
    expected = np.zeros((3, 5), bool)
    expected[0], expected[:, 0] = True, True
    assert (mask == expected).all()


def test_static_scenes_can_go_without_references():
    assert not any(ReferencePolicy(both=0, none=1.0).draw(3, 5, Random(s)).any() for s in range(50))


@pytest.mark.parametrize("weights", [(0, 0, 0, 0), (1, -0.1, 0, 0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="reference weights"):
        ReferencePolicy(*weights)
