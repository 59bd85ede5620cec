"""Many scenes in one start of the command line, with the committed weights."""

import logging
from pathlib import Path

import numpy as np
import pytest

from main import main
from scene4d.grid_format import read_grid
from scene4d.sample_pictures import encode_video

ROOT = Path(__file__).parents[1]


def predict(out, *options):
    configs = ("shipped_diffusion.yaml", "small"), ("predict_grid.yaml", "evaluation")
    given = [text for name, part in configs for text in ("--config", str(ROOT / "configs" / part / name))]
    main([
        "predict", *given, "--data.size", "[16,32]", "--data.views", "2", "--data.frames", "5",
        "--model.init_args.sampling.steps", "1", "--trainer.enable_progress_bar", "false",
        "--trainer.default_root_dir", str(out), *options,
    ])  # fmt: skip


@pytest.fixture
def clips(tmp_path):
    """Two scenes as a table, the second with a fixed view alone."""
    frames = np.full((9, 36, 64, 3), 90, np.uint8)
    frames[:, :9] = np.arange(9, dtype=np.uint8)[:, None, None, None] * 20
    (tmp_path / "a.mp4").write_bytes(encode_video(frames, 12))
    (tmp_path / "pairs.csv").write_text("key,fixed_view,freeze_time\nboth,a.mp4,a.mp4\nalone,a.mp4,\n")
    return tmp_path


def test_every_scene_has_its_folder(clips, monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    predict(clips / "out", "--data.scenes", str(clips / "pairs.csv"))
    both, alone = (read_grid(clips / "out" / key / "grid.safetensors") for key in ("both", "alone"))
    assert both.images.shape == alone.images.shape == (1, 2, 5, 3, 16, 32)
    assert (both.images[0, 0] - alone.images[0, 0]).abs().max() == 0
    assert both.reference[0].sum() == 6 and alone.reference[0].sum() == 5
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("a fixed-view video alone, trained with both reference videos" in line for line in said) == 1


def test_a_missing_file_ends_it_before_anything_is_made(clips, monkeypatch):
    monkeypatch.chdir(ROOT)
    (clips / "pairs.csv").write_text("key,fixed_view\na,a.mp4\nb,b.mp4\n")
    with pytest.raises(ValueError, match="pairs.csv' row 3: fixed_view '.*b.mp4' does not exist"):
        predict(clips / "out", "--data.scenes", str(clips / "pairs.csv"))
    assert not (clips / "out").exists()
