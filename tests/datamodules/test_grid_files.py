"""Grid files as the data of a prediction: mistakes in the list of files are one line."""

import pytest
import torch

from datamodules import GridFiles
from scene4d.grid_format import write_grid
from scene4d.types import SceneBatch


@pytest.fixture
def grid(tmp_path):
    batch = SceneBatch(
        images=torch.rand(1, 2, 5, 3, 8, 8), cameras=None, frame_times=torch.arange(5.0)[None] / 12,
        reference=torch.zeros(1, 2, 5, dtype=torch.bool), source=["user"], keys=["a"],
    )  # fmt: skip
    write_grid(tmp_path / "grid.safetensors", batch)
    return str(tmp_path / "grid.safetensors")


def test_every_frame_is_an_input(grid):
    data = GridFiles([grid, grid], frame_stride=2)
    data.setup("predict")
    first, second = data.predict_dataloader()
    assert first.images.shape == (1, 2, 3, 3, 8, 8) and bool(first.reference.all()) and second.keys == ["a"]
    assert torch.equal(first.frame_times, torch.tensor([[0.0, 2 / 12, 4 / 12]]))


def test_no_files_and_odd_strides_are_refused(grid):
    with pytest.raises(ValueError, match="paths is empty"):
        GridFiles([])
    for stride in (0, -1):
        with pytest.raises(ValueError, match=f"frame_stride must be at least 1, got {stride}"):
            GridFiles([grid], frame_stride=stride)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent.safetensors' does not exist"):
        GridFiles([str(tmp_path / "absent.safetensors")]).setup("predict")
