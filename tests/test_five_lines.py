"""The lines of Python in the README, as a notebook would run them: from two videos to a scene."""

import re
from pathlib import Path

import pytest
import torch

from lightning_modules import from_config
from main import main
from preparation.example_videos import main as write_examples

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_readme_s_lines_make_a_scene(tmp_path):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    statements = [line for line in lines.splitlines() if line and not line.startswith(("from ", "import "))]
    assert len(statements) <= 5
    shard = "assets/small/shards/objects-val-000000.tar"
    write_examples(["--shard", shard, "--index", "6", "--output", str(tmp_path)])
    for name in ("fixed_view.mp4", "freeze_time.mp4"):
        assert f'"{name}"' in lines
        lines = lines.replace(f'"{name}"', f'"{tmp_path / name}"')
    names: dict = {}
    exec(lines, names)
    grid, scene = names["grid"], names["scene"]
    assert grid.images.shape == (1, 4, 17, 3, 64, 64)
    generated = grid.images[~grid.reference]
    assert generated.std() > 0.05 and generated.min() < 0.5 < generated.max()
    assert scene.cameras.c2w.shape == (1, 4, 4, 4) and scene.gaussians.means.shape == (1, 17, 4 * 64 * 64, 3)
    assert all(torch.isfinite(x).all() for x in (scene.gaussians.means, scene.gaussians.colors))
    middle = names["reconstructor"].render(scene.gaussians, scene.cameras, (64, 64), scene.background)
    assert (
        middle - grid.images
    ).square().mean().sqrt() < 0.15  # the scene looks like the grid it was made from


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match="no weights were given for base"):
        from_config("configs/small/diffusion_stage2.yaml", weights=[])


def test_a_config_that_is_missing_is_named():
    with pytest.raises(Exception, match=r"absent\.yaml"):
        from_config("configs/absent.yaml")


def test_the_config_that_a_run_has_saved_will_do(tmp_path):
    options = [
        "--config",
        "configs/small/shipped_diffusion.yaml",
        "--trainer.fast_dev_run",
        "true",
        "--print_config",
    ]
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("sys.argv", ["main.py"])
        patch.setattr("sys.stdout", type("Lines", (), {"write": lines.append, "flush": lambda: None}))
        with pytest.raises(SystemExit):
            main(["fit", *options])
    (tmp_path / "config.yaml").write_text("".join(lines))
    assert "ckpt_path" in "".join(lines)
    assert from_config(str(tmp_path / "config.yaml")).generator.sampling.steps == 5
