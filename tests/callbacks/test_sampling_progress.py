"""Sampling says how far it is: a bar in a terminal, a few lines elsewhere, and nothing changes by it."""

import logging
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import Progress

from callbacks.console import StepBar
from callbacks.sampling_progress import SamplingProgress, with_bar, with_lines
from scene4d.pipelines import GridGenerator


def model():
    return SimpleNamespace(generator=GridGenerator(None, None, None))


def watched(bar=None):
    module = model()
    SamplingProgress().on_predict_start(SimpleNamespace(progress_bar_callback=bar), module)
    return module.generator


@pytest.mark.parametrize("count, said", [
    (1, [1]), (4, [1, 2, 3, 4]), (8, [2, 4, 6, 8]), (10, [3, 5, 8, 10]), (40, [10, 20, 30, 40]),
])  # fmt: skip
def test_about_four_lines_where_there_is_no_terminal(count, said, caplog):
    with caplog.at_level(logging.INFO, "callbacks"):
        assert list(watched(StepBar()).watch(iter(range(count)), count)) == list(range(count))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(",")[0] for line in lines] == [f"sampling: {k} of {count} steps" for k in said]


def test_a_line_comes_when_its_evaluation_is_done_not_before(caplog):
    with caplog.at_level(logging.INFO, "callbacks"):
        steps = with_lines(iter(range(4)), 4)
        assert not caplog.records
        next(steps)
        assert len(caplog.records) == 1


def test_a_row_of_the_bar_in_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    bar = StepBar()
    bar.progress = Progress(disable=True)
    steps = watched(bar).watch(iter("abc"), 3)
    assert next(steps) == "a"
    (row,) = bar.progress.tasks
    assert (row.description, row.completed, row.total) == ("Sampling", 1, 3)
    assert list(steps) == ["b", "c"] and not bar.progress.tasks


def test_a_row_is_gone_after_an_error():
    bar = RichProgressBar()
    bar.progress = Progress(disable=True)

    def broken():
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(with_bar(bar, broken(), 2))
    assert not bar.progress.tasks
    bar.progress = None
    assert list(with_bar(bar, iter("ab"), 2)) == ["a", "b"]


@pytest.mark.parametrize("end", ["on_predict_end", "on_exception"])
def test_afterwards_nobody_watches(end, caplog):
    module, callback = model(), SamplingProgress()
    callback.on_predict_start(SimpleNamespace(progress_bar_callback=None), module)
    getattr(callback, end)(None, module, *([ValueError()] if end == "on_exception" else []))
    with caplog.at_level(logging.INFO, "callbacks"):
        assert list(module.generator.watch(iter(range(4)), 4)) == [0, 1, 2, 3]
    assert not caplog.records


def test_models_without_a_generator_are_left_alone():
    module = SimpleNamespace()
    SamplingProgress().on_predict_start(SimpleNamespace(progress_bar_callback=None), module)
    SamplingProgress().on_predict_end(None, module)
    assert vars(module) == {}
