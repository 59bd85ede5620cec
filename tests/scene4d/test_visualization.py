"""Contact sheets have the right geometry, videos and pictures read back."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.visualization import (
    REFERENCE_COLOUR,
    SEPARATOR,
    comparison_sheet,
    fitting_enlargement,
    grid_sheet,
    grid_video,
    still_sheet,
    to_uint8,
    write_png,
    write_video,
)


def numbered_grid(v: int, t: int, size: int = 8) -> torch.Tensor:
    """Flat images; view v at time t has the brightness (v t_max + t) / number."""
    values = torch.arange(v * t).float() / (v * t)
    return values.view(v, t, 1, 1, 1).expand(v, t, 3, size, size).clone()


def read_video(path) -> np.ndarray:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_sheet_puts_view_v_in_row_v():
    grid = numbered_grid(3, 4)
    sheet = grid_sheet(grid, gap=1)
    assert sheet.shape == (3, 3 * 8 + 2, 4 * 8 + 3)
    assert torch.equal(sheet[:, 9:17, 18:26], grid[1, 2])
    assert (sheet[:, 8] == SEPARATOR).all() and (sheet[:, :, 17] == SEPARATOR).all()


def test_comparison_has_labels_and_all_grids():
    grid = numbered_grid(2, 12)
    sheet = comparison_sheet({"truth": grid, "generated": 1 - grid}, columns=1)
    height = 14 + 2 * 8 + 1
    assert sheet.shape == (3, 2 * height + 6, 12 * 8 + 11)
    assert torch.equal(sheet[:, 14:height], grid_sheet(grid))
    assert torch.equal(sheet[:, height + 6 + 14 :], grid_sheet(1 - grid))
    labels = sheet[:, :14], sheet[:, height + 6 : height + 20]
    assert all(label.min() < 0.3 for label in labels) and not torch.equal(*labels)
    four = comparison_sheet(dict.fromkeys("abcd", grid))
    assert four.shape == (3, 2 * height + 6, 2 * (12 * 8 + 11) + 6)
    with pytest.raises(ValueError, match="at least one grid"):
        comparison_sheet({})


def test_grid_video_frames_references():
    grid = numbered_grid(3, 2)
    reference = torch.tensor([[True, True], [True, False], [False, False]])
    frames = grid_video(grid, reference, gap=2)
    assert frames.shape == (2, 8, 3 * 8 + 4, 3)
    orange = to_uint8(torch.tensor(REFERENCE_COLOUR).view(3, 1, 1))[0, 0]
    assert (frames[0, 0, 12] == orange).all() and (frames[1, 0, 12] != orange).any()
    assert (frames[1, 4, 14] == round(3 / 6 * 255 + 1e-6)).all()  # view 1, time 1


def test_many_views_take_two_rows():
    assert grid_video(numbered_grid(7, 2), gap=1).shape == (2, 2 * 8 + 1, 4 * 8 + 3, 3)


def test_video_reads_back(tmp_path):
    frames = to_uint8(torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 15, 33))
    write_video(tmp_path / "new" / "grid.mp4", frames, fps=12.5, enlarge=3)
    found = read_video(tmp_path / "new" / "grid.mp4")
    assert found.shape == (5, 46, 100, 3)  # 45 and 99 padded to even
    assert np.abs(found.astype(int) - frames[:, :1, :1].astype(int)).max() <= 3
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["grid.mp4"]


def test_video_refuses_other_arrays(tmp_path):
    with pytest.raises((ValueError, TypeError), match=r"float32|f32"):
        write_video(tmp_path / "x.mp4", np.zeros((2, 8, 8, 3), np.float32), 12.0)
    with pytest.raises(ValueError, match="x.mp4"):
        write_video(tmp_path / "x.mp4", np.zeros((0, 8, 8, 3), np.uint8), 12.0)


def test_png_reads_back(tmp_path):
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    write_png(tmp_path / "a" / "x.png", image, enlarge=2)
    found = np.asarray(Image.open(tmp_path / "a" / "x.png"))
    assert found.shape == (8, 10, 3)
    assert (found[::2, ::2] == to_uint8(image)).all() and (found[1::2, 1::2] == to_uint8(image)).all()


def test_a_still_sheet_shows_a_few_times_from_the_first_to_the_last():
    grid, reference = numbered_grid(2, 61, 12), torch.zeros(2, 61, dtype=torch.bool)
    reference[0], reference[:, 0] = True, True
    sheet = still_sheet(grid, reference, most=5, gap=2)
    assert sheet.shape == (3, 2 * 12 + 2, 5 * 12 + 4 * 2)
    cells = sheet[:, 14:].unfold(2, 12, 14)  # c h 5 w: the second row
    assert torch.equal(cells[0, 6, :, 6], grid[1, [0, 15, 30, 45, 60], 0, 6, 6])
    colour = torch.tensor(REFERENCE_COLOUR)
    assert [torch.equal(corner, colour) for corner in cells[:, 0, :, 0].T] == [True] + [False] * 4
    assert torch.equal(sheet[:, 0, -1], colour)
    assert still_sheet(grid[:, :3], reference[:, :3]).shape[2] == 3 * 12 + 2 * 2


@pytest.mark.parametrize("height, width, times", [(64, 262, 3), (290, 1030, 1), (500, 600, 2), (4000, 9, 1)])
def test_small_sheets_are_enlarged(height, width, times):
    assert fitting_enlargement(height, width) == times
