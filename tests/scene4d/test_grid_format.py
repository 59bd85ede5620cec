"""Grids survive the file between the two models."""

import pytest
import torch
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize("name", ["c2w", "intrinsics"])
def test_one_camera_that_is_not_finite_is_named_and_nothing_written(tmp_path, name):
    batch = grid_batch(True)
    getattr(batch.cameras, name)[1, 2, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="the camera of view 2 of scene 'b' is not finite"):
        write_grid(tmp_path / "grid.safetensors", batch, index=1)
    assert not list(tmp_path.iterdir())


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


HEADER = {"version": "1", "key": "a", "source": "objects"}
without = lambda mapping, name: {k: v for k, v in mapping.items() if k != name}  # noqa: E731
DAMAGE = {
    "no key": (lambda t, h: (t, without(h, "key")), r"missing \['key'\]"),
    "no source": (lambda t, h: (t, without(h, "source")), r"missing \['source'\]"),
    "c2w only": (lambda t, h: (without(t, "intrinsics"), h), "intrinsics is missing"),
    "intrinsics only": (lambda t, h: (without(t, "c2w"), h), "c2w is missing"),
    "3 times": (lambda t, h: (t | {"frame_times": torch.arange(3.0)}, h), r"frame_times must be float \(5,\)"),
    "NaN time": (lambda t, h: (t | {"frame_times": torch.full((5,), torch.nan)}, h), "frame_times holds NaN"),
    "infinite time": (lambda t, h: (t | {"frame_times": torch.full((5,), torch.inf)}, h), "frame_times holds NaN"),
    "NaN camera": (lambda t, h: (t | {"c2w": torch.full((3, 4, 4), torch.nan)}, h), "c2w holds NaN"),
    "4 cameras": (lambda t, h: (t | {"c2w": torch.zeros(4, 4, 4)}, h), r"c2w must be float \(3, 4, 4\)"),
    "2 channels": (lambda t, h: (t | {"images": t["images"][..., :2].contiguous()}, h), r"are \(3, 5, 8, 8, 2\)"),
    "3 axes": (lambda t, h: (t | {"images": t["images"][0, 0].contiguous()}, h), "`v t h w 3`"),
    "no frames": (lambda t, h: (t | {"images": t["images"][:, :0].contiguous()}, h), "`v t h w 3`"),
    "NaN pixel": (lambda t, h: (t | {"images": torch.full((3, 5, 8, 8, 3), torch.nan)}, h), r"must lie in \[0, 1\]"),
    "floats to 255": (lambda t, h: (t | {"images": t["images"].float()}, h), r"must lie in \[0, 1\], lie in"),
    "int16": (lambda t, h: (t | {"images": t["images"].short()}, h), "must be uint8 or float"),
    "other mask": (lambda t, h: (t | {"reference": torch.ones(5, 3, dtype=torch.bool)}, h), "reference must be bool"),
    "mask of floats": (lambda t, h: (t | {"reference": torch.ones(3, 5)}, h), "reference must be bool"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_that_names_the_file(tmp_path, kind):
    write_grid(tmp_path / "whole.safetensors", grid_batch(cameras=True))
    change, message = DAMAGE[kind]
    tensors, header = change(load_file(tmp_path / "whole.safetensors"), HEADER)
    save_file(tensors, tmp_path / "bad.safetensors", metadata=header)
    with pytest.raises(ValueError, match=message) as caught:
        read_grid(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float_pictures_are_read_as_0_to_1(tmp_path, dtype):
    batch = grid_batch(cameras=False)
    write_grid(tmp_path / "whole.safetensors", batch)
    tensors = load_file(tmp_path / "whole.safetensors")
    tensors["images"] = (tensors["images"].double() / 255).to(dtype)
    save_file(tensors, tmp_path / "float.safetensors", metadata=HEADER)
    assert (read_grid(tmp_path / "float.safetensors").images - batch.images[:1]).abs().max() < 1e-3
