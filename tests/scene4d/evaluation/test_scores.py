"""Scores against values worked out by hand."""

import math

import pytest
import torch

from scene4d.evaluation.scores import (
    GRID_SCORES,
    depth_abs_rel,
    foreground,
    psnr,
    rotation_error,
    score_grid,
    score_views,
    silhouette_iou,
)


def mean_difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs().mean((1, 2, 3))


def cross_reference(v: int, t: int) -> torch.Tensor:
    reference = torch.zeros(v, t, dtype=torch.bool)
    reference[0], reference[:, 0] = True, True
    return reference


def white_grid_with_square(v: int = 3, t: int = 4) -> torch.Tensor:
    """A black 4x4 square on white that sits at (2, 2)."""
    grid = torch.ones(v, t, 3, 16, 16)
    grid[..., 2:6, 2:6] = 0
    return grid


def test_perfect_prediction():
    truth = torch.rand(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = score_grid(truth.clone(), truth, cross_reference(3, 4), mean_difference)
    assert tuple(scores) == GRID_SCORES
    assert scores["psnr"] == pytest.approx(60) and scores["psnr_foreground"] == pytest.approx(60)
    assert scores["ssim"] == pytest.approx(1, abs=1e-5) and scores["perceptual"] == 0
    assert scores["iou"] == 1 and scores["sharpness"] == pytest.approx(1)


def test_psnr_is_the_mean_over_frames_then_videos():
    truth = torch.zeros(3, 3, 3, 16, 16)
    prediction = truth.clone()
    reference = torch.zeros(3, 3, dtype=torch.bool)
    reference[0], reference[1, 0], reference[1, 1] = (
        True,
        True,
        True,
    )  # video 1 has one generated frame, 2 has 3
    prediction[1, 2] = 0.1  # 20 dB
    prediction[2] = 0.01  # 40 dB
    scores = score_grid(prediction, truth, reference, mean_difference)
    assert scores["psnr"] == pytest.approx(30, abs=1e-4)  # not (20 + 3 * 40) / 4 = 35


def test_reference_frames_do_not_count():
    truth = torch.rand(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = cross_reference(3, 4)
    spoiled = torch.where(reference[:, :, None, None, None], 0.5, truth)
    assert score_grid(spoiled, truth, reference, mean_difference)["psnr"] == pytest.approx(60)


def test_foreground_is_the_union_of_truth_and_both_copies():
    truth = white_grid_with_square()
    truth[1, 1] = 1.0  # at the only scored place the object is gone ...
    truth[1, 1, :, 10:12, 10:12] = 0  # ... or rather moved
    reference = torch.ones(3, 4, dtype=torch.bool)
    reference[1, 1] = False
    prediction = truth.clone()
    prediction[1, 1, :, 2:6, 2:6] = 0.8  # a ghost where both copies have it: 16 of 20 foreground pixels
    scores = score_grid(prediction, truth, reference, mean_difference)
    assert scores["psnr_foreground"] == pytest.approx(-10 * math.log10(0.04 * 16 / 20), abs=1e-4)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(0.04 * 16 / 256), abs=1e-4)
    assert scores["iou"] == pytest.approx(4 / 20)


def test_copies_that_are_no_references_do_not_widen_the_foreground():
    truth = white_grid_with_square()
    truth[1, 1] = 1.0
    truth[1, 1, :, 10:12, 10:12] = 0
    reference = torch.ones(3, 4, dtype=torch.bool)
    reference[1, 1], reference[1, 0], reference[0, 1] = False, False, False
    prediction = truth.clone()
    prediction[1, 1, :, 2:6, 2:6] = 0.8
    assert score_grid(prediction, truth, reference, mean_difference)["psnr_foreground"] == pytest.approx(60)


def test_iou_of_overlapping_squares():
    a, b = torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    a[..., 0:4, 0:4] = 0
    b[..., 0:4, 2:6] = 0
    assert silhouette_iou(a, b).tolist() == pytest.approx([8 / 24])
    assert silhouette_iou(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).isnan().all()


def test_white_survives_codec_noise():
    assert not foreground(torch.full((3, 4, 4), 0.96)).any()
    assert foreground(torch.tensor([1.0, 0.9, 1.0]).view(3, 1, 1)).all()


def test_sharpness_of_half_the_contrast_is_a_quarter():
    truth = torch.zeros(2, 2, 3, 16, 16)
    truth[..., ::2] = 1
    scores = score_grid(truth * 0.5, truth, cross_reference(2, 2), mean_difference)
    assert scores["sharpness"] == pytest.approx(0.25)


def test_scores_without_meaning_are_nan():
    white = torch.ones(2, 2, 3, 16, 16)
    scores = score_grid(white, white, cross_reference(2, 2), mean_difference)
    assert all(math.isnan(scores[name]) for name in ("psnr_foreground", "iou", "sharpness"))
    assert scores["psnr"] == pytest.approx(60)
    textured = white_grid_with_square()
    scores = score_grid(textured, textured, cross_reference(3, 4), mean_difference, white_background=False)
    assert math.isnan(scores["iou"]) and scores["psnr_foreground"] == pytest.approx(60)


def test_score_views_agrees_with_score_grid():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 2, 3, 16, 16, generator=generator)
    prediction = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    reference = torch.tensor([True, False, False])[:, None].expand(3, 2)
    views = score_views(prediction, truth, reference, mean_difference)
    grid = score_grid(prediction, truth, reference, mean_difference)
    assert views == {name: grid[name] for name in ("psnr", "ssim", "perceptual")}


def test_wrong_shapes_and_masks_are_named():
    grid = torch.ones(2, 2, 3, 16, 16)
    with pytest.raises((ValueError, TypeError), match=r"2, ?2, ?3, ?16, ?16"):
        score_grid(grid, torch.ones(2, 3, 3, 16, 16), cross_reference(2, 3), mean_difference)
    with pytest.raises(ValueError, match="every frame is a reference"):
        score_grid(grid, grid, torch.ones(2, 2, dtype=torch.bool), mean_difference)


def test_psnr_cap():
    assert psnr(torch.tensor([0.01, 0.0])).tolist() == pytest.approx([20, 60])


def turn(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return matrix


def test_rotation_error_is_relative_to_the_first_camera():
    truth = torch.stack([turn(0), turn(10), turn(20)])
    assert rotation_error(torch.eye(4).expand(3, 4, 4), truth) == pytest.approx(15, abs=1e-4)
    assert rotation_error(turn(77) @ truth, truth) == pytest.approx(0, abs=1e-4)


def test_depth_error_ignores_scale_and_unknown_pixels():
    truth = torch.tensor([[[1.0, 2.0, 3.0, 0.0]]])
    assert depth_abs_rel(truth * 5, truth) == pytest.approx(0)
    assert depth_abs_rel(torch.tensor([[[1.0, 2.0, 6.0, 9.0]]]), truth) == pytest.approx(1 / 3)


def test_scores_do_not_change_under_autocast():
    truth = torch.rand(2, 3, 3, 32, 32)
    reference = torch.zeros(2, 3, dtype=torch.bool)
    reference[0] = True
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_grid(truth, truth, reference, lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert scores["ssim"] == pytest.approx(1.0, abs=1e-5)
