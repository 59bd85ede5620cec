"""Numbers of two ranks with gloo: means, totals, scores, times, throughput, the slowest rank, and no false alarm."""

import json

import pytest
from rank_processes import ROOT, run_ranks

pytestmark = pytest.mark.slow  # two processes import everything


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every case returned on rank 0; rank 1 is checked to have the same wherever both know it."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(2, folder, [str(ROOT / "tests/gloo_cases.py"), str(folder)])
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]


def both(found, case):
    ours, theirs = (rank[case] for rank in found)
    assert ours == theirs
    return ours


def test_means_are_those_of_all_samples_of_all_ranks(found):
    first, second, nothing = both(found, "figures")
    assert first == {
        "train/loss": 3.0, "train/loss_a": 1.5, "train/loss_b": 6.0, "train/loss_sigma_0.00_0.25": 3.5,
        "train/loss_sigma_0.75_1.00": 2.0, "train/useless_scenes": 7.0,
    }  # fmt: skip
    assert second == {"train/loss": 5.0, "train/useless_scenes": 7.0}
    assert nothing == {"train/useless_scenes": 7.0}


def test_scores_of_a_rank_without_scenes_are_those_of_the_others(found):
    assert both(found, "scores") == [
        [["s", 2.0, 2]], [["s", 1.0, 1], ["t", 5.0, 1]], [["t", 5.0, 1]], [],
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["slow_data", "slow_block"])
def test_the_slowest_rank_is_found_and_named(found, case):
    logged = both(found, case)
    assert [step for step, _ in logged] == [4, 8, 9]
    for _, figures in logged[:2]:
        assert figures["train/straggler_rank"] == 1
        # 10 ms in blocks and SLOW = 50 ms more; the median of two is their mean: 60 / 35
        assert 1.3 < figures["train/straggler_spread"] < 2
        assert figures["train/memory_gb"] > 0.05
    data = logged[1][1]
    assert (data["train/seconds_data_slowest"] >= 0.05) == (case == "slow_data")
    if case == "slow_data":
        assert 0.025 <= data["train/seconds_data"] < data["train/seconds_data_slowest"]
        assert data["train/mfu"] == pytest.approx(data["train/tflops_per_second"] / 2)


def test_ranks_that_count_operations_in_different_steps_log_together(found):
    assert [step for step, _ in both(found, "other_shapes")] == [4]


def test_throughput_is_the_sum_of_batches_of_different_shapes(found):
    ((_, rates),) = found[0]["throughput"]
    # a sample of 6 frames and one of 12
    assert rates["train/frames_per_second"] == pytest.approx(9 * rates["train/samples_per_second"])


def test_every_scene_is_written_once_and_no_more_than_wanted(found):
    assert both(found, "predicted") == [["a", "b", "c"], ["a", "b", "c"]]


def test_a_rank_that_waits_long_for_one_that_works_has_not_hung(found):
    assert both(found, "patience") is True
