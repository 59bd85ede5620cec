"""SynCamVideo and MultiCamVideo -> clips of all cameras, or stills where the cameras move.

    python -m preparation.synchronized --root SynCamVideo-Dataset/train --output data/syncam

A scene is `fFOCAL_apertureX/SCENE/` with `videos/camNN.mp4` (square, 15 frames per second) and
`cameras/camera_extrinsics.json`: {"frameK": {"camNN": "[a b c 0] [..] [..] [x y z 1] "}}. That is the transposed 4x4
camera-to-world matrix in Unreal's left-handed axes (x forward, y right, z up) and centimetres. The focal length is
FOCAL mm on a sensor of 23.76 mm. Every view of a sample has one camera for all times, so scenes whose cameras move
(MultiCamVideo) become stills of all cameras at one instant. Sources: the data sets' cards and vis_cam.py,
https://huggingface.co/datasets/KwaiVGI/MultiCamVideo-Dataset
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.readers.calibrated_videos import common_clock, video_file
from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import PosedView, assemble, find_folders
from preparation.readers.windows import RigClips, option, spread_windows
from scene4d.folders import natural_key
from scene4d.sample_format import SceneSample
from scene4d.video_files import video_info

SENSOR_MM = 23.76
METRES = 0.01
SQUARE = Shape(1.0)
STILL = 1e-3  # cameras whose matrices (metres) change less over a video stand still
# camera: forward, right, up -> right, down, forward; world: y flipped to be right-handed
CAMERA_AXES = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
WORLD_AXES = np.diag([1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Synchronized(RigClips):
    """Reads one scene.

    Attributes:
        instants: Largest number of stills per scene whose cameras move.
    """

    source: ClassVar[str] = "synchronized"
    terms: ClassVar[str] = "Apache-2.0, SynCamVideo / MultiCamVideo (Bai et al. 2025)"
    instants: int = option(4, "largest number of stills per scene with moving cameras, spread evenly in time")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a camera file."""
        return find_folders(root, "cameras/camera_extrinsics.json", levels=3)

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips, or stills, of one scene.

        Raises:
            ValueError: A matrix is malformed, a video or the focal length is missing; names the file.
        """
        poses = read_extrinsics(scene / "cameras" / "camera_extrinsics.json")
        intrinsics = _intrinsics(scene)
        poses = {name: poses[name] for name in self.kept(list(poses), str(scene))}
        videos = {name: scene / "videos" / f"{name}.mp4" for name in poses}
        count, rate = common_clock([video_info(path) for path in videos.values()])
        stored = min(count, *map(len, poses.values()))

        def views(frame: int) -> list[PosedView]:
            return [
                PosedView(str(p), poses[n][frame], intrinsics, video_file(p, rate), label=n, shape=SQUARE)
                for n, p in videos.items()
            ]

        if max(np.abs(pose - pose[:1]).max() for pose in poses.values()) < STILL:
            yield from self.grids(views(0), stored, rate)
        else:  # all cameras of a scene may start at one place, so frame 0 is left out
            for window in spread_windows(stored - 1, 1, 1, self.instants, "frames"):
                frame = window[0] + 1
                yield assemble(f"{frame:05d}", views(frame), [frame], self.size)


def read_extrinsics(path: Path) -> dict[str, Float[ndarray, "t 4 4"]]:
    """Returns OpenCV c2w in metres for every camera and frame.

    Raises:
        ValueError: The file is not of this form; names the file and the camera.
    """
    try:
        frames = json.loads(path.read_text())
        ordered = [frames[f"frame{k}"] for k in range(len(frames))]
        names = sorted(ordered[0], key=natural_key)
        return {name: np.stack([_pose(frame[name]) for frame in ordered]) for name in names}
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise ValueError(f"{path}: expected frameK: camNN: 4 rows of 4 numbers: {reason}") from error


def _pose(text: str) -> Float[ndarray, "4 4"]:
    unreal = np.array(re.sub(r"[\[\]]", " ", text).split(), float).reshape(4, 4).T
    unreal[:3, 3] *= METRES
    return WORLD_AXES @ unreal @ CAMERA_AXES


def _intrinsics(scene: Path) -> Float[ndarray, "3 3"]:
    """Reads the focal length off the folder's name; intrinsics are divided by the size of the square pictures."""
    found = re.match(r"f([\d.]+)_", scene.parent.name)
    if found is None:
        raise ValueError(f"{scene}: the folder above is no fFOCAL_apertureX, the focal length is unknown")
    focal = float(found[1]) / SENSOR_MM
    return np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]])
