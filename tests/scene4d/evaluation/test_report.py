"""metrics.json has exactly the agreed structure; the table says what belongs to whom."""

import json
import time

import pytest

from scene4d.atomic import write_json
from scene4d.evaluation.report import main, read_block, share_baselines, table

SCORES = {"psnr": 12.345, "iou": 0.5}


def diffusion(psnr: float) -> dict:
    return {"diffusion": {"objects": {"scenes": 16, "sample": SCORES | {"psnr": psnr}, "blend": SCORES}}}


RECONSTRUCTION = {"reconstruction": {"scenes": 16, "pose_free": {"psnr": 20.0}, "rotation_deg": 3.25}}


def test_command_joins_runs(tmp_path, caplog):
    write_json(tmp_path / "d.json", diffusion(15.0))
    write_json(tmp_path / "r.json", RECONSTRUCTION)
    write_json(tmp_path / "shipped.json", diffusion(17.0) | RECONSTRUCTION)
    (tmp_path / "grid.mp4").write_bytes(b"")
    with caplog.at_level("INFO"):
        main([
            "--demo", str(tmp_path / "d.json"), str(tmp_path / "r.json"),
            "--shipped", str(tmp_path / "shipped.json"), "--started", str(time.time() - 300),
            "--made", str(tmp_path / "grid.mp4"), str(tmp_path / "orbit.mp4"),
            "--output", str(tmp_path / "metrics.json"),
        ])  # fmt: skip
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["demo"] == diffusion(15.0) | RECONSTRUCTION
    assert found["shipped"] == diffusion(17.0) | RECONSTRUCTION
    assert set(found) == {"demo", "shipped", "minutes"} and found["minutes"] == pytest.approx(5, abs=0.05)
    assert "orbit.mp4  (missing)" in caplog.text and "grid.mp4\n" in caplog.text
    assert "made, 5.0 minutes after the first start" in caplog.text


def test_baselines_are_shared_between_runs_on_the_same_scenes():
    shipped = {
        "diffusion": {"objects": {"scenes": 16, "sample": SCORES}, "static": {"scenes": 3, "sample": SCORES}}
    }
    demo = diffusion(15.0)
    demo["diffusion"]["objects"]["one_step"] = SCORES
    demo["diffusion"]["static"] = {"scenes": 4, "blend": SCORES}
    share_baselines({"demo": demo, "shipped": shipped})
    assert shipped["diffusion"]["objects"] == {"scenes": 16, "sample": SCORES, "blend": SCORES}
    assert "blend" not in shipped["diffusion"]["static"]


def test_table_lists_trained_methods_a_run_and_baselines_once():
    text = table({"demo": diffusion(15.0) | RECONSTRUCTION, "shipped": diffusion(17.0)})
    rows = {
        line.strip().rsplit("  ", 2)[0].split("  ")[0]: line.split() for line in text.splitlines() if line
    }
    assert rows["sample (demo)"][-2:] == ["15.00", "0.500"] and rows["sample (shipped)"][-2] == "17.00"
    assert sum("blend" in line for line in text.splitlines()) == 1
    assert "pose_free (demo)" in text and "demo: rotation_deg 3.250" in text
    assert "diffusion, objects (16 held-out scenes)" in text
    assert rows["sample (demo)"] and "nan" not in table(
        {"demo": {"diffusion": {"x": {"scenes": 1, "m": {"iou": None}}}}}
    )


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read scores from .*none.json"):
        read_block([str(tmp_path / "none.json")])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds list"):
        read_block([str(tmp_path / "list.json")])
    write_json(tmp_path / "val.json", {"val/psnr": 1.0})
    with pytest.raises(ValueError, match="val/psnr"):
        read_block([str(tmp_path / "val.json")])
