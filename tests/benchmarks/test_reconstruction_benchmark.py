import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.live_memory import STATUS, reset_resident_peak, resident_peak
from benchmarks.reconstruction import growth, live_bytes, main
from scene4d.networks.vggt import ReconstructionNetwork

SHALLOW = {"depth": 4, "embedder_depth": 1, "camera_depth": 1, "layers": (0, 1, 2, 3), "point_head": False}


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


def growth_per_frame(all_layers=False, **settings):
    """MiB per frame of 224 x 224 in float32, at VGGT-1B's width, for views or for timesteps."""
    with FakeTensorMode():
        network = ReconstructionNetwork(**settings).eval()
        if all_layers:
            network.aggregator.kept = tuple(range(len(network.aggregator.frame_blocks)))
        some, views, times = (live_bytes(network, *grid, (224, 224)) for grid in ((16, 1), (24, 1), (8, 3)))
    return (views - some) / 8 / 2**20, (times - some) / 8 / 2**20


@pytest.mark.slow
def test_memory_grows_by_what_is_kept_and_little_else():
    assert max(growth_per_frame(**SHALLOW)) < 12  # 8 are the four kept layers, 3 are depths and Gaussians


@pytest.mark.slow
def test_memory_grows_by_less_than_a_quarter_of_that_of_all_layers():
    kept, everything = (growth_per_frame(all_layers, point_head=False)[0] for all_layers in (False, True))
    assert kept < 12 and kept < everything / 4
