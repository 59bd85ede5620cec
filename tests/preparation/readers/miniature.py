"""A world of three coloured blobs with known places, to prove readers by reprojection.

Nothing here is shared with the readers: cameras are drawn from textbook projection, and each test writes them
in its data set's own convention.
"""

import json
from pathlib import Path

import numpy as np
import webdataset

from preparation.readers.command import run
from scene4d.sample_format import decode_sample

# red, green and blue
POINTS = np.array([[0.5, -0.3, 0.2], [-0.6, 0.4, -0.3], [0.1, 0.6, 0.5]])
SIZE = (120, 160)  # of raw pictures
FOCAL, CENTRE = (150.0, 156.0), (83.0, 57.0)


def arc(count: int, radius: float = 4.0) -> list[np.ndarray]:
    """Camera-to-world matrices, x right, y down, z forward, all looking near the origin, rolled a little."""
    poses = []
    for k in range(count):
        angle, roll = 0.5 * (k / max(count - 1, 1) - 0.5), 0.1 * k
        place = radius * np.array([np.sin(angle), -0.2, -np.cos(angle)])
        forward = np.array([0.02, 0.05, 0.0]) - place
        forward /= np.linalg.norm(forward)
        right = np.cross([np.sin(roll), np.cos(roll), 0.0], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, place], axis=1)
        poses.append(pose)
    return poses


def pixels(points, c2w, focal=FOCAL, centre=CENTRE, lens=None) -> np.ndarray:
    """Where points are seen, pixel centres at +0.5."""
    local = np.linalg.solve(c2w, np.c_[points, np.ones(len(points))].T)[:3]
    plane = (local[:2] / local[2]).T
    if lens is not None:
        plane = lens(plane)
    return plane * focal + centre


def draw(c2w, size=SIZE, focal=FOCAL, centre=CENTRE, lens=None, points=POINTS, sigma=2.5) -> np.ndarray:
    """uint8 picture: one blob a colour channel on black."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    places = pixels(points, c2w, focal, centre, lens)
    blobs = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2)) for u, v in places]
    return np.round(255 * np.stack(blobs, -1)).astype(np.uint8)


def largest_error(sample, points_at=lambda frame: POINTS) -> float:
    """Largest distance in pixels between a blob's centre and its point's projection by the sample's camera."""
    errors = []
    y, x = np.mgrid[: sample.images.shape[2], : sample.images.shape[3]] + 0.5
    for view, (c2w, matrix) in enumerate(zip(sample.c2w.astype(float), sample.intrinsics.astype(float))):
        focal, centre = matrix[[0, 1], [0, 1]], matrix[:2, 2]
        for frame, image in enumerate(sample.images[view]):
            values = np.where(image > 40, image, 0).astype(float)
            assert (values.max((0, 1)) > 120).all(), "every blob must be seen"
            total = values.sum((0, 1))
            seen = np.stack([(values * place[..., None]).sum((0, 1)) / total for place in (x, y)])
            errors.append(np.abs(seen.T - pixels(points_at(frame), c2w, focal, centre)).max())
    return max(errors)


def read(reader: type, root: Path, output: Path, *options: str) -> list:
    """Runs a reader's command and decodes everything it wrote, in order."""
    run(reader, None, ["--root", str(root), "--output", str(output), "--no-text", "--crf", "0", *options])
    shards = [str(path) for path in sorted(output.glob("*.tar"))]
    return [decode_sample(members) for members in webdataset.WebDataset(shards, shardshuffle=False)]


def prove(samples, output: Path, record_property, points_at=lambda frame: POINTS, limit=0.1) -> None:
    """Asserts the reprojection error in pixels; notes it and the speed for docs/data-readers.md."""
    error = max(largest_error(sample, points_at) for sample in samples)
    shards = output.glob("*.tar")
    reports = [json.loads((output / "reports" / f"{shard.stem}.json").read_text()) for shard in shards]
    seconds = sum(report["seconds"] for report in reports)
    record_property("reprojection_error_px", round(float(error), 3))
    record_property("samples_per_second", round(len(samples) / seconds, 2))
    assert error < limit
