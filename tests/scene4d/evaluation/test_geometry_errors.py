import math

import pytest
from textured_wall import SIZE, make_batch

from scene4d.evaluation.geometry_errors import geometry_errors
from scene4d.geometry.normalised_batches import static_scenes
from scene4d.geometry.pose_encoding import encode_pose
from scene4d.types import Prediction


def test_the_truth_has_no_error_and_cameras_that_do_not_turn_have_theirs():
    _, depths, cameras = static_scenes(make_batch(t=1))
    poses = [encode_pose(cameras, SIZE, SIZE)]
    errors = geometry_errors(Prediction(cameras, poses, depths * 1.1, depths), depths, cameras)
    assert float(errors["rotation_deg"]) == pytest.approx(0, abs=0.1)
    assert float(errors["rotation_deg_first"]) == pytest.approx(0, abs=0.1)
    assert float(errors["rotation_deg_identity"]) == pytest.approx(math.degrees((4 + 1) / 2 * 0.08), rel=1e-2)
    assert float(errors["depth_abs_rel"]) == pytest.approx(0.1, rel=1e-3)
