import numpy as np
import pytest
import torch

from benchmarks.data import Measured, main, mixture
from preparation.writing.shards import write_shard
from scene4d.sample_format import SceneSample

CONFIG = """
class_path: datamodules.SceneDataModule
init_args:
  size: 16
  batch_size: 2
  train:
    - name: {kind}
      urls: [{folder}/a.tar]
      selection:
        class_path: datamodules.GridSelection
        init_args: {{views: 2, view_strides: [1], frames: 5}}
"""


def test_every_source_is_measured(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    scenes = [
        SceneSample(f"scene{k}", "objects", np.full((2, 5, 16, 16, 3), 40 * k, np.uint8), 12)
        for k in range(3)
    ]
    write_shard(tmp_path / "a.tar", scenes)
    config = tmp_path / "data.yaml"
    config.write_text(CONFIG.format(kind="objects", folder=tmp_path))
    with caplog.at_level("INFO"):
        measured, whole = main(["--config", str(config), "--samples", "4", "--rounds", "1"])
    assert measured.name == "objects" and measured.seconds > 0 and measured.decoding > 0
    assert measured.megabytes * 3e6 == pytest.approx((tmp_path / "a.tar").stat().st_size)
    assert "ratio" in caplog.text and "cores" in caplog.text
    assert whole.name == "mixture" and whole.ratio == pytest.approx(measured.ratio)


def test_ratio_of_the_mixture_is_that_of_its_samples_a_second():
    """Three samples of 10 ms for one of 2: 8 ms on average, of which 6.25 decode."""
    rows = [Measured("a", 0.010, 0.008, 1.0), Measured("b", 0.002, 0.001, 3.0)]
    whole = mixture(rows, [0.6, 0.2])
    assert whole.ratio == pytest.approx(6.25 / 8) and whole.megabytes == pytest.approx(1.5)
