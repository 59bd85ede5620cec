"""Grids survive the file between the two models."""

import pytest
import torch
from safetensors.torch import save_file

from scene4d.grid_format import read_grid, write_grid
from scene4d.types import Cameras, SceneBatch


def grid_batch(cameras: bool) -> SceneBatch:
    generator = torch.Generator().manual_seed(0)
    reference = torch.zeros(2, 3, 5, dtype=torch.bool)
    reference[:, 0], reference[:, :, 0] = True, True
    known = Cameras(
        torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 3, 3, generator=generator)
    )
    return SceneBatch(
        images=torch.randint(0, 256, (2, 3, 5, 3, 8, 8), generator=generator) / 255,
        cameras=known if cameras else None,
        frame_times=torch.arange(5.0).expand(2, 5) / 12,
        reference=reference,
        source=["objects", "static"],
        keys=["a", "b"],
    )


@pytest.mark.parametrize("cameras", [True, False])
def test_round_trip(tmp_path, cameras):
    batch = grid_batch(cameras)
    write_grid(tmp_path / "new" / "grid.safetensors", batch, index=1)
    found = read_grid(tmp_path / "new" / "grid.safetensors")
    assert torch.equal(found.images, batch.images[1:])
    assert torch.equal(found.frame_times, batch.frame_times[1:])
    assert torch.equal(found.reference, batch.reference[1:])
    assert found.source == ["static"] and found.keys == ["b"]
    assert (found.cameras is not None) == cameras
    if cameras:
        assert torch.equal(found.cameras.c2w, batch.cameras.c2w[1:])
        assert torch.equal(found.cameras.intrinsics, batch.cameras.intrinsics[1:])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["grid.safetensors"]


def test_cameras_filled_with_nan_are_left_out(tmp_path):
    batch = grid_batch(cameras=True)
    batch.cameras.c2w[0] = torch.nan
    write_grid(tmp_path / "g.safetensors", batch, index=0)
    assert read_grid(tmp_path / "g.safetensors").cameras is None


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="none.safetensors' does not exist"):
        read_grid(tmp_path / "none.safetensors")
    save_file({"images": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no grid of format 1: version None"):
        read_grid(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        read_grid(tmp_path / "text.safetensors")
