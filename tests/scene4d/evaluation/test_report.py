"""metrics.json has exactly the agreed structure; the table says what belongs to whom."""

import json
import time

import pytest

from scene4d.atomic import write_json
from scene4d.evaluation.report import main, parse_parts, read_parts, share_baselines, table
from scene4d.evaluation.table import Row


def diffusion(psnr: float, baselines: bool = True, scenes: int = 16) -> dict[str, list[Row]]:
    rows = [
        Row("objects", "sample", "psnr", psnr, scenes),
        Row("objects", "sample", "squeezenet_distance", 1.234, scenes),
        Row("objects", "sample_other_reference", "psnr", 12.0, scenes - 1),
    ]
    if baselines:
        rows += [Row("objects", "blend", "psnr", 19.0, scenes), Row("static", "blend", "iou", 0.5, 4)]
    return {"diffusion": rows}


RECONSTRUCTION = {
    "reconstruction": [
        Row("rooms", "pose_free", "psnr", 20.0, 16),
        Row("rooms", "pose_free", "rotation_deg", 3.25, 16),
    ]
}


def lines_of(text: str) -> dict[str, list[str]]:
    """Cells of the table's lines, by what stands first."""
    return {line.strip().split("  ")[0]: line.split() for line in text.splitlines() if line}


def test_command_joins_runs(tmp_path, caplog):
    write_json(tmp_path / "d.json", diffusion(15.0))
    write_json(tmp_path / "r.json", RECONSTRUCTION)
    write_json(tmp_path / "shipped.json", diffusion(17.0, baselines=False) | RECONSTRUCTION)
    (tmp_path / "grid.mp4").write_bytes(b"")
    with caplog.at_level("INFO"):
        main([
            "--demo", str(tmp_path / "d.json"), str(tmp_path / "r.json"),
            "--shipped", str(tmp_path / "shipped.json"), "--started", str(time.time() - 300),
            "--made", str(tmp_path / "grid.mp4"), str(tmp_path / "orbit.mp4"),
            "--output", str(tmp_path / "metrics.json"),
        ])  # fmt: skip
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert set(found) == {"demo", "shipped", "minutes"} and found["minutes"] == pytest.approx(5, abs=0.05)
    first = {"source": "objects", "method": "sample", "score": "psnr", "value": 15.0, "count": 16}
    assert found["demo"]["diffusion"][0] == first
    assert parse_parts(found["demo"]) == diffusion(15.0) | RECONSTRUCTION
    shipped = diffusion(17.0, baselines=False)["diffusion"] + [Row("objects", "blend", "psnr", 19.0, 16)]
    assert parse_parts(found["shipped"]) == {"diffusion": shipped} | RECONSTRUCTION
    assert "orbit.mp4  (missing)" in caplog.text and "grid.mp4\n" in caplog.text
    assert "made, 5.0 minutes after the first start" in caplog.text


def test_baselines_are_shared_between_runs_on_as_many_scenes():
    demo, shipped = diffusion(15.0), diffusion(17.0, baselines=False)
    share_baselines({"demo": demo, "shipped": shipped})
    assert shipped["diffusion"][3:] == [Row("objects", "blend", "psnr", 19.0, 16)]
    assert demo == diffusion(15.0)
    fewer = diffusion(17.0, baselines=False, scenes=8)
    share_baselines({"demo": demo, "shipped": fewer})
    assert fewer == diffusion(17.0, baselines=False, scenes=8)


def test_table_names_runs_where_they_differ_and_the_network_of_the_distance():
    runs = {"demo": diffusion(15.0) | RECONSTRUCTION, "shipped": diffusion(17.0)}
    text = table(runs)
    lines = lines_of(text)
    assert lines["sample (demo)"][2:] == ["16", "15.00", "1.234"] and lines["sample (shipped)"][3] == "17.00"
    assert lines["sample_other_reference"][1:] == ["15", "12.00", "-"]
    assert lines["blend"] and sum("blend" in line for line in text.splitlines()) == 2  # objects and static
    assert lines["pose_free (demo)"][3:] == ["20.00", "3.250"]
    header = next(line for line in text.splitlines() if line.startswith("diffusion, objects"))
    assert header.split()[2:] == ["scenes", "PSNR", "SqueezeNet"]
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [
        line for line in text.splitlines() if line.startswith(("diffusion, ", "reconstruction, "))
    ]


def test_the_table_of_one_run_needs_no_name():
    text = table({"": diffusion(15.0)})
    assert "(" not in text and lines_of(text)["sample"][1:3] == ["16", "15.00"]


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read scores from .*none.json"):
        read_parts([tmp_path / "none.json"])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="list.json.*got list"):
        read_parts([tmp_path / "list.json"])
    for content in ({"val/psnr": 1.0}, {"diffusion": [{"value": 1.0}]}, {"diffusion": {"objects": {}}}):
        write_json(tmp_path / "val.json", content)
        with pytest.raises(ValueError, match="val.json.*list of rows for each of"):
            read_parts([tmp_path / "val.json"])
    write_json(tmp_path / "metrics.json", {"demo": {}, "shipped": {}, "minutes": 1})
    with pytest.raises(ValueError, match="metrics.json' is no metrics.json"):
        main(["--output", str(tmp_path / "metrics.json")])


GOOD = {"source": "objects", "method": "sample", "score": "psnr", "value": 20.0, "count": 4}


@pytest.mark.parametrize(
    "row",
    [
        GOOD | {"value": "20"},
        GOOD | {"count": 4.5},
        GOOD | {"count": None},
        GOOD | {"source": None},
        GOOD | {"more": 1},
        {"source": "objects"},
        None,
        "text",
        7,
    ],
)
def test_rows_that_are_none_are_one_line_that_names_the_file(tmp_path, row):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"diffusion": [row]}))
    with pytest.raises(
        ValueError, match="scores.json.*expected a list of rows for each of diffusion"
    ) as caught:
        read_parts([path])
    assert "\n" not in str(caught.value)


def test_null_stands_for_nan(tmp_path):
    assert parse_parts({"diffusion": [GOOD | {"value": None}]})["diffusion"][0].value is None
    assert " - " in table({"": {"diffusion": [Row(**(GOOD | {"value": None}))]}}) + " "
