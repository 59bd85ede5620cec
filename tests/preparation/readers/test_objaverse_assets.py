"""Real animated GLB files, rendered: SCENE4D_GLB_FOLDER names a folder of them, for example of Objaverse's."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from miniature import pixels, read
from scipy.ndimage import binary_dilation

pytest.importorskip("bpy")
from preparation.readers.objaverse import Objaverse  # noqa: E402

FOLDER = os.environ.get("SCENE4D_GLB_FOLDER", "")
pytestmark = [
    pytest.mark.slow,  # Blender renders
    pytest.mark.skipif(not FOLDER, reason="SCENE4D_GLB_FOLDER names no folder of animated GLB files"),
]
OPTIONS = ("--size", "96", "--views", "2", "--arc", "20", "--frames", "5", "--fps", "4")
"""Two views 20 degrees apart, a second of time."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Folder of the shards; samples by key; the first instant again, with other noise."""
    output = tmp_path_factory.mktemp("glb")
    samples = read(Objaverse, Path(FOLDER), output / "first", *OPTIONS, "--samples", "16")
    again = read(Objaverse, Path(FOLDER), output / "again", *OPTIONS[:-4], "--frames", "1", "--samples", "12")
    return output / "first", samples, {sample.key: sample.images[:, 0].astype(float) for sample in again}


def test_every_asset_is_rendered(rendered, record_property):
    output, samples, _ = rendered
    report = json.loads((output / "reports/objaverse-train-part-0-of-1.json").read_text())
    assert report["skipped"] == {} and len(samples) == len(list(Path(FOLDER).rglob("*.glb"))) > 0
    shard = json.loads((output / "reports/objaverse-train-000000.json").read_text())
    record_property("seconds_an_asset", round(shard["seconds"] / len(samples), 1))


def test_skeletons_move_far_beyond_the_noise(rendered, record_property):
    _, samples, again = rendered
    for sample in samples:
        images = sample.images.astype(float)
        shown = (images < 250).any(-1).any((0, 1))
        noise = np.abs(images[:, 0] - again[sample.key])[:, shown].mean()
        change = np.abs(images - images[:, :1])[:, :, shown].mean((0, 2, 3))
        moved = (np.abs(images - images[:, :1]).max(-1) > 60)[:, :, shown].mean((0, 2))
        record_property(
            f"{sample.key} noise, change (grey levels), moved",
            np.round([noise, change.max(), moved.max()], 2),
        )
        assert change.max() > 3 * noise and moved.max() > 0.02, f"{sample.key}: {change} {noise} {moved}"


def test_backgrounds_are_white_and_cameras_are_cameras(rendered):
    for sample in rendered[1]:
        empty = ~np.stack([binary_dilation(view[0] > 0, iterations=2) for view in sample.depths])
        assert 0.2 < empty.mean() < 0.98 and (sample.images[:, 0][empty] > 250).all(), sample.key
        turns = sample.c2w[:, :3, :3].astype(float)
        np.testing.assert_allclose(
            turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-5
        )
        assert np.isfinite(sample.c2w).all() and np.isfinite(sample.intrinsics).all()
        first, second = -sample.c2w[:, :3, 3].astype(float)
        angle = np.degrees(np.arctan2(first[1], first[0]) - np.arctan2(second[1], second[0]))
        assert abs((angle + 180) % 360 - 180) == pytest.approx(20, abs=1e-3)


def test_depth_of_one_view_agrees_with_the_other(rendered, record_property):
    for sample in rendered[1]:
        errors = round_trip(sample, sample.depths)
        record_property(
            f"{sample.key} median error, px; share below 1 px",
            np.round([np.median(errors), (errors < 1).mean()], 3),
        )
        assert np.median(errors) < 0.3 and (errors < 1).mean() > 0.7, sample.key
        mirrored = sample.depths.copy()
        mirrored[1] = mirrored[1, :, :, ::-1]
        assert np.median(round_trip(sample, mirrored)) > 3 * np.median(errors), (
            "a mirrored view must not pass"
        )


def round_trip(sample, depths) -> np.ndarray:
    """How far pixels of view 0 land from themselves, seen by view 1 and brought back with the depth found there.

    Pixels that view 1 sees beside the object count as a whole picture away.
    """
    (depth, other), size = depths[:, 0], depths.shape[-1]
    rows, columns = np.nonzero(depth)
    places = np.stack([columns, rows], 1) + 0.5
    seen = look(world(places, depth[rows, columns], sample, 0), sample, 1)
    x, y = np.floor(seen).astype(int).clip(0, size - 1).T
    found = other[y, x]
    back = look(world(seen, np.where(found > 0, found, 1), sample, 1), sample, 0)
    return np.where(found > 0, np.linalg.norm(back - places, axis=1), size)


def world(places, depth, sample, view) -> np.ndarray:
    k, c2w = sample.intrinsics[view].astype(float), sample.c2w[view].astype(float)
    rays = np.c_[(places - k[:2, 2]) / k[[0, 1], [0, 1]], np.ones(len(places))]
    return (rays * depth[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]


def look(points, sample, view) -> np.ndarray:
    k = sample.intrinsics[view].astype(float)
    return pixels(points, sample.c2w[view].astype(float), k[[0, 1], [0, 1]], k[:2, 2])
