"""Shards of tiny scenes, written on the fly."""

from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from scene4d.sample_format import SceneSample, encode_sample


def make_scene(
    key: str, source: str = "objects", views: int = 4, frames: int = 5, size: int = 16
) -> SceneSample:
    """A scene with cameras on a line and depth at every fourth frame; 2D videos have neither."""
    rng = np.random.default_rng(abs(hash_key(key)))
    images = rng.integers(0, 256, (views, 1, 4, 4, 3), dtype=np.uint8)
    images = images.repeat(size // 4, 2).repeat(size // 4, 3).repeat(frames, 1)
    if source == "homography":
        return SceneSample(key, source, images, 12.0)
    c2w = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    c2w[:, 0, 3] = np.arange(views)
    intrinsics = np.array([[20, 0, size / 2], [0, 20, size / 2], [0, 0, 1]], np.float32)
    depth_frames = list(range(0, frames, 4))
    depths = np.broadcast_to(
        1 + np.arange(views, dtype=np.float32)[:, None, None, None], (views, len(depth_frames), size, size)
    )
    return SceneSample(
        key, source, images, 12.0, c2w, np.tile(intrinsics, (views, 1, 1)), depths.copy(), depth_frames
    )


def hash_key(key: str) -> int:
    """The same number in every process, unlike `hash`."""
    return int.from_bytes(key.encode()[-7:], "little")


@pytest.fixture(scope="session")
def scene():
    """Makes one scene: `scene(key, source, views, frames, size)`."""
    return make_scene


@pytest.fixture(scope="session")
def shards():
    """Writes shards: `shards(folder, source, shards=2, samples=3, **scene)` -> glob pattern."""

    def write(folder: Path, source: str = "objects", shards: int = 2, samples: int = 3, **scene) -> str:
        for shard in range(shards):
            with wds.TarWriter(str(folder / f"{source}-train-{shard:06d}.tar")) as tar:
                for index in range(samples):
                    tar.write(encode_sample(make_scene(f"{source}_{shard}_{index}", source, **scene)))
        return str(folder / f"{source}-train-*.tar")

    return write
