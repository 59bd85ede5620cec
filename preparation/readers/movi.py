"""MOVi (Kubric's sets in TensorFlow Datasets), exported scene by scene -> clips of one view with depth.

    python -m preparation.movi --root movi_a_npz --output data/movi --frames 21

TensorFlow is not needed here: export each example once, where it is installed, with its features under their
documented names, nested ones joined by a slash:

    for k, scene in enumerate(tfds.as_numpy(tfds.load("movi_a/256x256", split="train"))):
        np.savez(f"{k:06d}.npz", video=scene["video"], depth=scene["depth"],
                 **{f"{part}/{name}": scene[part][name] for part, names in {
                     "camera": ["focal_length", "sensor_width", "positions", "quaternions"],
                     "metadata": ["depth_range"]}.items() for name in names})

`video` is uint8 `t h w 3` at 12 frames per second. `depth` is uint16 `t h w 1`: the distance from the centre of the
camera, between the two values of depth_range; `--depth planar` reads depth along the axis of the camera. Scenes with
a moving camera (MOVi-E, F) are skipped. Source:
https://github.com/google-research/kubric/tree/main/challenges/movi
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from PIL import Image

from preparation.readers.kubric import fixed_camera, planar_depth
from preparation.readers.posed_views import PosedView
from preparation.readers.windows import VideoClips, option
from scene4d.folders import listed_below
from scene4d.sample_format import SceneSample

FPS = 12.0
CAMERA = ("focal_length", "sensor_width", "positions", "quaternions")


@dataclass(frozen=True)
class Movi(VideoClips):
    """Reads one exported scene.

    Attributes:
        depth: What the depth is: `distance` from the centre of the camera, or `planar` depth along its axis.
    """

    source: ClassVar[str] = "movi"
    terms: ClassVar[str] = "Apache-2.0, MOVi (Greff et al. 2022); see the terms of the rendered assets"
    frames: int = option(21, "frames per clip; 4k + 1 suits the autoencoders")
    depth: str = option("distance", "what depth holds: `distance` from the camera's centre, or `planar`")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all exported scenes."""
        return listed_below(root, [".npz"])

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips of one scene.

        Raises:
            ValueError: The file lacks an array or cannot be read, or the camera moves; names it.
        """
        try:
            with np.load(scene, allow_pickle=False) as arrays:
                video, depth = arrays["video"], arrays["depth"][..., 0]
                low, high = arrays["metadata/depth_range"]
                camera = {name: arrays[f"camera/{name}"] for name in CAMERA}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{scene}: expected MOVi's features as arrays: {error}") from error
        if video.shape[:3] != depth.shape:
            raise ValueError(f"{scene}: video is {video.shape}, but depth is {depth.shape}")
        c2w, intrinsics = fixed_camera(camera, video.shape[2] / video.shape[1], str(scene))

        def frames(numbers: Sequence[int]) -> Iterator[Image.Image]:
            return (Image.fromarray(video[k]) for k in numbers)

        def depths(numbers: Sequence[int]) -> Iterator[Float32[ndarray, "h w"]]:
            scale = (high - low) / 65535
            return (planar_depth(depth[k] * scale + low, intrinsics, self.depth, str(scene)) for k in numbers)

        view = PosedView(str(scene), c2w, intrinsics, frames, depths)
        yield from self.grids([view], len(video), FPS)
