"""Novel views: rows for each source, a bound that needs true depth, nothing that hangs on batches or units."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from textured_wall import SIZE, make_batch, make_network

from scene4d.evaluation import novel_views
from scene4d.evaluation.novel_views import NovelViews
from scene4d.gaussians import Pruning
from scene4d.geometry.cameras import camera_spread, scale_cameras
from scene4d.pipelines import Reconstructor


def evaluate(pipeline, *batches, pictures=0):
    evaluation = NovelViews(pictures)
    evaluation.start(torch.device("cpu"))
    for batch in batches:
        evaluation.add(pipeline, batch)
    return evaluation


def values(rows, source="objects"):
    return {(row.method, row.score): row.value for row in rows if row.source == source}


def renamed(batch, source, prefix):
    batch.source, batch.keys = [source] * len(batch.keys), [f"{prefix}{key}" for key in batch.keys]
    return batch


def test_every_method_has_a_row_for_every_score_and_source():
    pipeline = Reconstructor(make_network())
    rooms = renamed(make_batch(wall_depth=1.5), "rooms", "room")
    evaluation = evaluate(pipeline, make_batch(b=2), rooms)
    rows = evaluation.compute()
    assert {(row.source, row.count) for row in rows} == {("objects", 2), ("rooms", 1)}
    views = {"psnr", "ssim", evaluation.perceptual.score}
    expected = {(method, score) for method in novel_views.METHODS[:5] for score in views}
    expected |= {("pose_free", "rotation_deg"), ("pose_free", "depth_abs_rel"), ("identity", "rotation_deg")}
    assert {(row.method, row.score) for row in rows if row.source == "rooms"} == expected
    assert values(rows)["identity", "rotation_deg"] == pytest.approx((4 + 1) / 2 * 0.08 * 57.2958, rel=1e-3)
    assert values(rows)["copy_nearest", "psnr"] != values(rows, "rooms")["copy_nearest", "psnr"]


def test_further_methods_are_off_by_default_and_scored_when_named(monkeypatch):
    """Aligned targets see the predicted scene from the truth; the fit of poses is given 3 steps here."""
    short = partial(novel_views.align_by_rendering, steps=3)
    monkeypatch.setattr(novel_views, "align_by_rendering", short)
    evaluation = NovelViews(0, also=["aligned_cameras", "test_time_alignment"])
    evaluation.start(torch.device("cpu"))
    with torch.inference_mode():  # as Lightning validates
        evaluation.add(Reconstructor(make_network()), make_batch(t=1))
    found = values(evaluation.compute())
    assert found["test_time_alignment", "psnr"] > found["pose_free", "psnr"]  # it looks at what is scored
    assert ("aligned_cameras", "ssim") in found


def test_pruning_is_scored():
    rows = [values(evaluate(Reconstructor(make_network(), pruning=p), make_batch(t=1)).compute())
            for p in (None, Pruning(least_confident=0.9), Pruning(opacity=1 / 255))]  # fmt: skip
    for method in ("pose_free", "given_cameras"):
        whole, little, same = (x[method, "psnr"] for x in rows)
        assert abs(whole - little) > 0.1 and same == pytest.approx(whole, abs=1e-3)


def test_scores_do_not_depend_on_batches_and_repeated_scenes_count_once():
    """Scenes with other stored depths share a batch; the last one is repeated, as loaders do to fill a batch."""
    pipeline, both = Reconstructor(make_network(), background=None), make_batch(b=2)
    both.images[1] = both.images[1].flip(-1)
    both.depths[1, :, 1] = 0
    together = evaluate(pipeline, both).compute()
    apart = evaluate(pipeline, both.sample(0), both.sample(1), both.sample(1)).compute()
    assert [replace(row, value=0.0) for row in together] == [replace(row, value=0.0) for row in apart]
    for ours, theirs in zip(together, apart):
        assert ours.value == pytest.approx(theirs.value, rel=1e-4, abs=1e-6)


def test_the_bound_needs_the_true_depth():
    """It lies far above copying with true depth, near or below it when the depth is bent."""
    scores = []
    for bend in (0.0, 0.5):
        batch = make_batch(wall_depth=1.2, endless=True)
        batch.depths = batch.depths * (1 + bend * torch.linspace(-1, 1, SIZE))
        found = values(evaluate(Reconstructor(make_network(), background=None), batch).compute())
        scores.append({name: found[name, "psnr"] for name in ("true_depth", "copy_nearest")})
    assert scores[0]["true_depth"] > scores[0]["copy_nearest"] + 5
    assert scores[1]["true_depth"] < scores[0]["true_depth"] - 5


def test_scores_do_not_depend_on_the_unit_of_length():
    found = []
    for scale in (1.0, 10.0):
        batch = make_batch()
        batch.cameras = scale_cameras(batch.cameras, torch.full((1,), scale))
        batch.depths = batch.depths * scale
        found.append(values(evaluate(Reconstructor(make_network()), batch).compute()))
    for name in ("given_cameras", "true_depth", "pose_free"):
        assert found[0][name, "psnr"] == pytest.approx(found[1][name, "psnr"], abs=0.05)


@pytest.mark.parametrize("unit", [1.0, 10.0])
def test_given_cameras_without_depth_are_as_far_apart_as_the_predicted_ones(unit, monkeypatch):
    pipeline, calls = Reconstructor(make_network(), refine=True), []
    assemble = pipeline.assemble
    monkeypatch.setattr(pipeline, "assemble", lambda *x: calls.append(x) or assemble(*x))
    batch = make_batch()
    batch.cameras.c2w[..., :3, 3] *= unit
    batch.depths = None
    rows = evaluate(pipeline, batch).compute()
    (prediction, images), given = calls[0], calls[1][2]
    predicted = assemble(prediction, images).cameras
    torch.testing.assert_close(camera_spread(given.c2w), camera_spread(predicted.c2w), rtol=1e-3, atol=1e-6)
    found = values(rows)
    assert not {("true_depth", "psnr"), ("pose_free", "depth_abs_rel")} & set(found)
    assert ("pose_free", "rotation_deg") in found


def test_every_batch_costs_the_same_calls_of_the_network():
    """A call that one rank makes and another leaves out would never return on sharded networks."""
    network, calls = make_network(), []
    pipeline = Reconstructor(lambda images: calls.append(len(images)) or network(images))
    without = make_batch()
    without.depths = None
    half = make_batch(b=2)
    half.depths[0] = 0
    for batch in (make_batch(), without, half):
        evaluate(pipeline, batch)
    assert calls == [1, 1, 1, 1, 2, 2]


def test_a_batch_without_cameras_is_refused_by_name():
    batch = make_batch()
    batch.cameras = None
    with pytest.raises(ValueError, match=r"sources \['objects'\] lack them"):
        evaluate(Reconstructor(make_network()), batch)


def test_the_first_scenes_of_a_source_become_pictures_and_a_start_forgets():
    evaluation = evaluate(Reconstructor(make_network()), make_batch(b=3), pictures=2)
    assert set(evaluation.pictures) == {"objects/scene0", "objects/scene1"}
    assert evaluation.pictures["objects/scene0"].shape == (3, 2 * SIZE + 1, 5 * SIZE + 4)
    evaluation.start(torch.device("cpu"))
    assert evaluation.pictures == {} and evaluation.compute() == []
