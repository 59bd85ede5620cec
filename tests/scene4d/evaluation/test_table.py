"""Means over scenes: each scene once, every rank the same, nothing without meaning."""

import logging
import math

import pytest

from scene4d.evaluation.rows import Row
from scene4d.evaluation.table import SceneScores


def test_means_skip_nan_and_unseen_methods():
    scores = SceneScores(["sample", "copy"], ["psnr", "iou"])
    scores.update("objects", "a", "sample", {"psnr": 10.0, "iou": 0.5})
    scores.update("objects", "b", "sample", {"psnr": 20.0, "iou": math.nan})
    assert scores.compute() == [
        Row("objects", "sample", "psnr", 15.0, 2),
        Row("objects", "sample", "iou", 0.5, 1),
    ]
    scores.reset()
    assert scores.compute() == []
    scores.update("physics", "a", "copy", {"psnr": math.inf, "iou": 1.0})
    assert scores.compute() == [Row("physics", "copy", "iou", 1.0, 1)]


def test_rows_are_per_source():
    scores = SceneScores(["sample"], ["psnr"])
    scores.update("rooms", "a", "sample", {"psnr": 10.0})
    scores.update("objects", "a", "sample", {"psnr": 30.0})
    assert [(row.source, row.value) for row in scores.compute()] == [("rooms", 10.0), ("objects", 30.0)]


def test_a_repeated_scene_counts_once():
    scores = SceneScores(["sample"], ["psnr"])
    for key, value in (("a", 10.0), ("b", 40.0), ("b", 40.0)):
        scores.update("objects", key, "sample", {"psnr": value})
    assert scores.compute() == [Row("objects", "sample", "psnr", 25.0, 2)]


def test_failures_are_told_and_are_no_missing_scores(caplog):
    scores = SceneScores(["sample", "copy"], ["psnr", "iou"])
    for key, failed in (("a", False), ("b", True), ("b", True), ("c", True)):
        scores.update("objects", key, "sample", {"psnr": 10.0, "iou": math.nan}, failed)
        scores.update("objects", key, "copy", {"psnr": 5.0, "iou": math.nan})
    with caplog.at_level(logging.WARNING):
        assert [(row.method, row.count) for row in scores.compute()] == [("sample", 1), ("copy", 3)]
    (told,) = [record.getMessage() for record in caplog.records]
    assert (
        told
        == "objects: what 'sample' made of 2 of 3 scenes holds NaN; the means are those of the other scenes"
    )


def test_unknown_names_are_refused():
    scores = SceneScores(["sample"], ["psnr"])
    with pytest.raises(ValueError, match="'copy' is not one of sample"):
        scores.update("objects", "a", "copy", {})
    with pytest.raises(ValueError, match="'iou' is not one of psnr"):
        scores.update("objects", "a", "sample", {"iou": 1.0})


def test_ranks_are_joined_and_what_both_have_counts_once():
    ours, theirs = (SceneScores(["sample"], ["psnr"]) for _ in range(2))
    for key, value in (("a", 10.0), ("c", 20.0)):
        ours.update("objects", key, "sample", {"psnr": value})
    for key, value in (("b", 60.0), ("c", 20.0)):
        theirs.update("objects", key, "sample", {"psnr": value})
    ids, values = ours.metric_state["ids"], ours.metric_state["values"]
    ours.ids, ours.values = ids + theirs.ids, values + theirs.values
    assert ours.compute() == [Row("objects", "sample", "psnr", 30.0, 3)]


def test_the_sum_has_one_order():
    values = {"a": 0.1, "b": 1e16, "c": -1e16, "d": 0.2}
    means = set()
    for order in ("abcd", "dcba", "bdac"):
        scores = SceneScores(["sample"], ["psnr"])
        for key in order:
            scores.update("objects", key, "sample", {"psnr": values[key]})
        means.add(scores.compute()[0].value)
    assert len(means) == 1
