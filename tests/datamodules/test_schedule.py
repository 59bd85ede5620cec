import random

import pytest

from datamodules.schedule import deal, fair_starts, whole_weights


def worst_deviation(weights, turns, start, draws):
    """Largest distance of any source from its share over all prefixes."""
    counts, worst = [0] * len(weights), 0.0
    for k in range(1, draws + 1):
        counts[turns[(start + k - 1) % len(turns)]] += 1
        worst = max(worst, *(abs(c - k * w / sum(weights)) for c, w in zip(counts, weights)))
    return worst


def test_whole_weights():
    assert whole_weights([0.4, 0.2, 0.2, 0.2]) == [2, 1, 1, 1]
    assert whole_weights([1 / 3, 2 / 3]) == [1, 2]
    assert whole_weights([3]) == [1]
    assert whole_weights([2.5, 0.123]) == [2500, 123]


@pytest.mark.parametrize(
    "weights", [[], [1, 0], [1, -1], [float("nan")], [1, 1e-9], [0.997, 1 / 991, 1 / 983]]
)
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        whole_weights(weights)


def test_every_prefix_is_exact_for_many_weights():
    rng = random.Random(0)
    cases = [[2, 1, 1, 1], [1], [1, 1], [1, 100], [7, 5, 3, 2, 1], [50, 1, 1, 1, 1, 1]]
    cases += [[rng.randint(1, 40) for _ in range(rng.randint(2, 7))] for _ in range(60)]
    for weights in cases:
        turns = deal(weights)
        assert [turns.count(i) for i in range(len(weights))] == list(weights)
        assert worst_deviation(weights, turns, 0, 2 * len(turns)) < 1


def test_every_fair_start_is_exact_to_one_sample():
    rng = random.Random(1)
    for weights in [[2, 1, 1, 1], *([rng.randint(1, 9) for _ in range(4)] for _ in range(20))]:
        turns = deal(weights)
        starts = fair_starts(weights, turns)
        assert 0 in starts
        for start in range(len(turns)):
            exact = worst_deviation(weights, turns, start, len(turns)) <= 1 + 1e-9
            assert exact == (start in starts)


def test_the_papers_mixture():
    turns = deal([2, 1, 1, 1])
    assert turns == [0, 1, 2, 3, 0]
    assert fair_starts([2, 1, 1, 1], turns) == [0, 2, 3]
