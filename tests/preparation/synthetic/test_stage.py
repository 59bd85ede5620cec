import numpy as np
import pytest

from preparation.synthetic.stage import (
    RejectedScene,
    disc,
    phrase,
    random_cameras,
    reject_near_objects,
    wall,
)

LAMPS = (np.array([[0, 0, 1]], np.float32), np.ones(1, np.float32))
GREY = np.full((4, 4, 3), 128, np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_cameras_stand_on_the_promised_arc(seed):
    c2w, intrinsics = random_cameras(np.random.default_rng(seed), (0.1, 0.2, 0.4), (2.6, 3.4))
    offsets = c2w[:, :3, 3] - np.array([0.1, 0.2, 0.4])
    distance = np.linalg.norm(offsets, axis=1)
    assert distance == pytest.approx(np.full(8, distance[0]), rel=1e-4) and 2.6 <= distance[0] <= 3.4
    elevation = np.degrees(np.arcsin(offsets[:, 2] / distance))
    assert elevation.min() > 11.99 and elevation.max() < 40.01
    azimuth = np.unwrap(np.arctan2(offsets[:, 1], offsets[:, 0]))
    assert 34.9 < abs(np.degrees(azimuth[-1] - azimuth[0])) < 45.1
    assert np.einsum("vc,vc->v", c2w[:, :3, 2], -offsets / distance[:, None]) == pytest.approx(
        np.ones(8), abs=1e-4
    )
    assert intrinsics[0, 0, 2] == 32


def test_near_objects_are_rejected():
    c2w, intrinsics = random_cameras(np.random.default_rng(0), (0.0, 0.0, 0.4), (3.0, 3.0))
    floor = disc(7.0, GREY, LAMPS)
    reject_near_objects([floor], c2w, intrinsics, 0.8)
    place = c2w[-1, :3, 3] + 0.4 * c2w[-1, :3, 2]
    side, down = c2w[-1, :3, 0] * 0.3, c2w[-1, :3, 1] * 0.3
    obstacle = wall(place - (side + down) / 2, side, down, GREY, LAMPS)
    with pytest.raises(RejectedScene, match="view 7"):
        reject_near_objects([floor, obstacle], c2w, intrinsics, 0.8)


def test_phrases():
    assert phrase(["chair", "lamp", "armchair"]) == "a chair, a lamp and an armchair"
    assert phrase(["box"]) == "a box"
