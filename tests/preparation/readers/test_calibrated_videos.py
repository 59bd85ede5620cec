"""Cameras that are given for stored frames turn with them, so that points stay where they are seen."""

import numpy as np
import pytest

from preparation.readers.calibrated_videos import common_clock, upright_camera
from preparation.readers.capture import camera_of
from preparation.readers.qualisys import CalibratedCamera
from scene4d.video_files import Orientation, VideoInfo

POINTS = np.array([[0.1, 0.2, 2.0], [-0.4, 0.3, 2.5], [0.3, -0.2, 3.0]])
QUARTERS = [((0, 1), (-1, 0)), ((0, -1), (1, 0))]


def project(c2w, intrinsics):
    local = (POINTS - c2w[:3, 3]) @ c2w[:3, :3] @ intrinsics.T
    return local[:, :2] / local[:, 2:]


def pose():
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)) * 0.05 + np.eye(3))[0]
    c2w = np.eye(4)
    c2w[:3, :3] = rotation * np.sign(np.diag(rotation))
    c2w[:3, 3] = [0.1, -0.1, -0.2]
    return c2w


@pytest.mark.parametrize("right, down", QUARTERS)
def test_a_camera_of_stored_frames_turns_with_them(right, down):
    video, c2w = Orientation(160, 90, right, down), pose()
    intrinsics = np.array([[120.0, 0, 85], [0, 120, 40], [0, 0, 1]])
    stored = np.diag([1 / 160, 1 / 90, 1]) @ intrinsics
    turned, upright = upright_camera(c2w, stored, video)
    assert np.linalg.det(turned[:3, :3]) == pytest.approx(1) and (upright[[0, 1], [0, 1]] > 0).all()
    found = project(turned, np.diag([90, 160, 1]) @ upright)
    expected = np.c_[project(c2w, intrinsics), np.ones(3)] @ video.matrix().T
    np.testing.assert_allclose(found, expected[:, :2], atol=1e-9)


def test_a_camera_of_upright_frames_stays_and_a_mirrored_one_is_refused():
    portrait = np.diag([1 / 90, 1 / 160, 1]) @ np.array([[120.0, 0, 45], [0, 120, 80], [0, 0, 1]])
    same = upright_camera(np.eye(4), portrait, Orientation(160, 90, *QUARTERS[0]))
    assert np.array_equal(same[0], np.eye(4)) and np.array_equal(same[1], portrait)
    landscape = np.diag([1 / 160, 1 / 90, 1]) @ np.array([[120.0, 0, 80], [0, 120, 45], [0, 0, 1]])
    with pytest.raises(ValueError, match="is mirrored by its display matrix"):
        upright_camera(np.eye(4), landscape, Orientation(160, 90, (0, 1), (1, 0)))


@pytest.mark.parametrize("right, down", QUARTERS)
def test_a_calibrated_lens_turns_with_its_frames(right, down):
    video, lens = Orientation(160, 90, right, down), np.array([0.1, -0.02, 0.03, -0.05])
    intrinsics = np.array([[240.0, 0, 170], [0, 240, 80], [0, 0, 1]])
    camera = CalibratedCamera("a", (320, 180), pose(), intrinsics, lens)
    expected = np.c_[camera.resized(160, 90).project(POINTS), np.ones(3)] @ video.matrix().T
    np.testing.assert_allclose(camera_of(camera, video, "a.mp4").project(POINTS), expected[:, :2], atol=1e-9)


def test_one_clock_for_all_videos():
    way = Orientation(4, 4)
    assert common_clock([VideoInfo(60, 30, way), VideoInfo(59, 29.97, way)]) == (59, 29.97)
    assert common_clock([VideoInfo(60, 30, way), VideoInfo(20, 20, way)]) == (20, 20)


def test_rates_that_are_rounded_cost_no_frame():
    way = Orientation(4, 4)
    assert common_clock([VideoInfo(60, 60.001, way), VideoInfo(30, 30.0, way)]) == (30, 30.0)
