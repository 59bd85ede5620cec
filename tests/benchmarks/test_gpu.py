"""The benchmark of one GPU, rehearsed on the CPU: tables, errors, time, death and resumption, and every part."""

import json
import sys
import time
from functools import partial

import pytest
import torch

from benchmarks.gpu import __main__ as command_line
from benchmarks.gpu import attention as attention_part
from benchmarks.gpu import sampling as sampling_part
from benchmarks.gpu import step as step_part
from benchmarks.gpu.attention import attention
from benchmarks.gpu.overhead import overhead
from benchmarks.gpu.part import Part
from benchmarks.gpu.reconstruction import reconstruction
from benchmarks.gpu.rendering import rendering
from benchmarks.gpu.report import UNFINISHED, Report
from benchmarks.gpu.sampling import sampling
from benchmarks.gpu.timing import timed

CPU = torch.device("cpu")


def part_of(folder, name="step", seconds=100.0):
    return Part(name, seconds, Report(folder, {"card": "none"}), CPU, tiny=True)


def rows_on_disk(folder, name="step"):
    return json.loads((folder / "gpu.json").read_text())["parts"][name]["rows"]


def test_rows_are_on_disk_before_and_after_they_are_measured(tmp_path):
    part, seen = part_of(tmp_path), []

    def measure():
        seen.append(rows_on_disk(tmp_path)["a, 1"])
        return {"seconds": 0.25}

    assert part.row({"kind": "a", "size": 1}, measure) == {"kind": "a", "size": 1, "seconds": 0.25}
    assert seen == [{"kind": "a", "size": 1, "error": UNFINISHED}]
    assert rows_on_disk(tmp_path)["a, 1"]["seconds"] == 0.25
    assert "| a | 1 | 0.25 |" in (tmp_path / "gpu.md").read_text()


def test_an_error_is_a_cell_and_the_next_row_is_measured(tmp_path):
    part = part_of(tmp_path)

    def fail():
        raise RuntimeError("no kernel\nand much more")

    assert part.row({"kind": "a"}, fail)["error"] == "RuntimeError: no kernel"
    assert part.row({"kind": "b"}, lambda: {"x": 1})["x"] == 1


def test_an_error_of_the_device_ends_the_process(tmp_path):
    def fail():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(SystemExit):
        part_of(tmp_path).row({"kind": "a"}, fail)
    again = part_of(tmp_path)
    assert "illegal" in again.row({"kind": "a"}, lambda: pytest.fail("measured twice"))["error"]


def test_no_row_begins_without_time(tmp_path):
    part = part_of(tmp_path, seconds=0.05)
    assert part.row({"kind": "long"}, lambda: {}, needs=1.0) == {}
    assert part.row({"kind": "a"}, lambda: time.sleep(0.1) or {}) == {"kind": "a"}
    assert part.row({"kind": "b"}, lambda: {}) == {}
    assert part.table.left_out == ["b", "long"]
    part.report.write()
    assert part_of(tmp_path, seconds=0.05).left < 0  # an earlier process used the time up
    assert "s: b; long" in (tmp_path / "gpu.md").read_text()


def test_parts_share_the_seconds():
    assert sum(command_line.shares([("attention", None), ("step", None)], 100).values()) == pytest.approx(94)
    assert sum(command_line.shares(command_line.options_of([]).parts, 350).values()) < 350
    given = command_line.options_of(["--parts", "step=60", "attention", "gsplat=4"]).parts
    assert command_line.shares(given, 100) == {"step": 60, "attention": pytest.approx(30), "gsplat": 4}


def test_an_unknown_part_is_one_line(capsys):
    with pytest.raises(SystemExit):
        command_line.options_of(["--parts", "training"])
    assert "'training' is not one of attention, step" in capsys.readouterr().err


def test_rows_by_a_regular_expression(tmp_path):
    part = part_of(tmp_path)
    part.wanted = "^step: (a|c), 2"
    found = [part.row({"kind": kind, "size": size}, dict) for kind in "abc" for size in (1, 2)]
    assert [tuple(row.values()) for row in found if row] == [("a", 2), ("c", 2)]
    assert part.table.left_out == []


WORKER = """
import json, os, sys
from pathlib import Path
settings = json.loads(sys.argv[-1])
file = Path(settings["folder"]) / "gpu.json"
rows = json.loads(file.read_text())["parts"]["step"]["rows"] if file.exists() else {}
name = f"row {len(rows)}"
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps({"parts": {"step": {"rows": {**rows, name: {}}, "left_out": [], "seconds": 1.0}}}))
if len(rows) < DEATHS:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("deaths, code", [(0, 0), (2, 0), (99, -9)])
def test_a_process_that_dies_is_replaced(tmp_path, monkeypatch, deaths, code):
    real, program = command_line.subprocess.Popen, WORKER.replace("DEATHS", str(deaths))
    monkeypatch.setattr(
        command_line.subprocess, "Popen", lambda command: real([sys.executable, "-c", program, command[-1]])
    )
    assert command_line.main(["--parts", "step", "--folder", str(tmp_path)]) == code
    assert len(rows_on_disk(tmp_path)) == min(deaths + 1, command_line.STARTS)


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    real = command_line.subprocess.Popen
    monkeypatch.setattr(command_line, "KILL_AFTER", 0)
    monkeypatch.setattr(
        command_line.subprocess,
        "Popen",
        lambda _: real([sys.executable, "-c", "import time; time.sleep(60)"]),
    )
    start = time.monotonic()
    assert command_line.main(["--seconds", "1", "--folder", str(tmp_path)]) != 0
    assert time.monotonic() - start < 20


def test_the_median_does_not_see_the_first_call():
    calls = []

    def call(number):
        calls.append(number)
        time.sleep(0.2 if len(calls) == 1 else 0.001)

    found = timed(call, CPU, repeats=5, warm_ups=2)
    assert found.first > 0.19 and found.seconds < 0.1 and calls == [0, 1, 0, 1, 2, 3, 4]


def test_useful_operations_are_those_of_a_softmax_over_the_mask(tmp_path):
    from scene4d.kernels.attention import view_time_mask

    case = attention_part.Case(part_of(tmp_path), (3, 4, 5), heads=2, channels=16)
    assert case.flops == 4 * 16 * 2 * int(view_time_mask((3, 4, 5)).sum())


def test_attention(tmp_path, monkeypatch):
    plain = lambda grid, block: partial(attention_part.fused_view_time_attention, grid=grid)  # noqa: E731
    monkeypatch.setattr(attention_part, "_flex", plain)  # which would be compiled for minutes
    part = part_of(tmp_path, "attention")
    attention(part)
    rows = part.table.rows
    assert [name for name, row in rows.items() if "error" in row] == []
    assert sum("flex" in name for name in rows) == 4
    merged = part.table.rows["3 x 2 x 8, 2, merged, cpu"]
    assert merged["forward, ms"] > 0 and merged["fwd + bwd / two dense"] > 0
    assert "3 x 2 x 8, 2, part: merge compiled" in rows


def test_steps_with_every_kind_of_checkpointing(tmp_path):
    part, flops = part_of(tmp_path), []
    rows = [step_part._row(part, kind, False, flops) for kind in ("selective", "none", "full")]
    assert len({row["TFLOP"] for row in rows}) == 1 and rows[0]["TFLOP"] > 0
    assert "aten::" in (tmp_path / rows[1]["profile"]).read_text()
    again = step_part.TrainingStep(part, "none", compiled=False).flops()
    assert again == flops[0]  # what is computed twice counts once


def test_sampling_beside_the_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_part, "LONGEST", 0.0)
    part = part_of(tmp_path, "sampling")
    sampling(part)
    paper, small, _ = part.table.rows.values()
    assert paper["40 steps, s"] == 472.0
    assert small["measured"] == "4" and small["40 steps, s"] == pytest.approx(10 * small["4 steps, s"])


def test_reconstruction(tmp_path):
    part = part_of(tmp_path, "reconstruction")
    reconstruction(part)
    assert [row for row in part.table.rows.values() if "error" in row] == []


def test_a_training_step_of_the_reconstruction(tmp_path):
    part = part_of(tmp_path, "gsplat")
    rendering(part)
    (row,) = part.table.rows.values()
    assert "error" not in row and row["step, s"] > 0


def test_marks_are_identities_and_tell_when_gradients_pass():
    from benchmarks.gpu.rendering import _Mark

    order = []
    x = torch.randn(3, requires_grad=True)
    (y,) = _Mark.apply(partial(order.append, "inputs"), x)
    (z,) = _Mark.apply(partial(order.append, "results"), y * 2)
    z.sum().backward()
    assert order == ["results", "inputs"] and torch.equal(x.grad, torch.full((3,), 2.0))


@pytest.mark.filterwarnings("ignore")
def test_overhead(tmp_path):
    part = part_of(tmp_path, "overhead")
    overhead(part)
    assert len(part.table.rows) == 4
    assert all(row["ratio"] > 0 for row in part.table.rows.values())
