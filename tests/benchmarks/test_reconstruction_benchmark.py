import pytest
import torch

from benchmarks.live_memory import STATUS, reset_resident_peak, resident_peak
from benchmarks.reconstruction import growth, main


def test_a_table_of_times_memory_and_operations():
    tiny = [
        "--device",
        "cpu",
        "--scale",
        "tiny",
        "--size",
        "28",
        "42",
        "--views",
        "2",
        "--timesteps",
        "1",
        "2",
    ]
    rows = main([*tiny, "--flops"]).rows
    assert rows["2, 1"]["frames"] == 2 and rows["fit"]["GB per frame"] is not None
    assert 1.5 < rows["2, 2"]["TFLOP"] / rows["2, 1"]["TFLOP"] < 2.5
    assert main([*tiny, "--all-layers"]).rows.keys() == rows.keys()


def test_the_growth_per_frame_is_the_slope():
    rows = [{"frames": n, "peak GB": 3.0 + 0.04 * n, "seconds": 0.1 * n} for n in (2, 8, 64)]
    assert growth(rows) == {
        "GB": pytest.approx(3), "GB per frame": pytest.approx(0.04), "s per frame": pytest.approx(0.1),
    }  # fmt: skip


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells")
def test_the_resident_peak_sees_what_was_freed_before():
    before = reset_resident_peak()
    torch.ones(50_000_000, dtype=torch.uint8)
    assert 45e6 < resident_peak() - before < 80e6
    assert reset_resident_peak() < before + 20e6
    assert resident_peak() < before + 20e6
