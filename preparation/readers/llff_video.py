"""Neural 3D Video -> clips of all cameras: `camXX.mp4` beside `poses_bounds.npy`.

    python -m preparation.llff_video --root neural_3d_video --output data/neural3d

The n-th row of `poses_bounds.npy` (see llff.py) belongs to the n-th video by name; cameras that were left out
of a scene are in neither. cam00 is the data set's test camera: `--hold-out cam00` keeps it out of `--split train`.
Source:
https://github.com/facebookresearch/Neural_3D_Video
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from preparation.readers.calibrated_videos import common_clock, is_of_stored, upright_camera, video_file
from preparation.readers.llff import read_poses_bounds
from preparation.readers.picture_shape import Shape
from preparation.readers.posed_views import PosedView, find_folders
from preparation.readers.windows import RigClips
from scene4d.folders import listed, natural_key
from scene4d.sample_format import SceneSample
from scene4d.video_files import video_info


@dataclass(frozen=True)
class LLFFVideo(RigClips):
    """Reads one dynamic scene."""

    source: ClassVar[str] = "neural3d"
    terms: ClassVar[str] = "CC-BY-NC-4.0, Neural 3D Video (Li et al. 2022)"

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a `poses_bounds.npy` and videos."""
        folders = find_folders(root, "poses_bounds.npy")
        return [folder for folder in folders if listed(folder, ["cam*.mp4"])]

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields clips of one scene.

        Raises:
            ValueError: There are not as many videos as rows, or one cannot be read; names the file.
        """
        videos = sorted(listed(scene, ["cam*.mp4"]))  # as the rows were written: cam10 before cam9
        cameras = read_poses_bounds(scene / "poses_bounds.npy")
        if len(videos) != len(cameras):
            raise ValueError(f"{scene}: {len(videos)} videos, expected {len(cameras)} (poses_bounds.npy)")
        by_name = {path.stem: (path, camera) for path, camera in zip(videos, cameras)}
        names = self.kept(sorted(by_name, key=natural_key), str(scene))
        infos = {name: video_info(by_name[name][0]) for name in names}
        count, rate = common_clock(list(infos.values()))
        views = []
        for name in names:
            path, (c2w, intrinsics, shape) = by_name[name]
            turn = infos[name].orientation
            if is_of_stored(shape.aspect, turn):
                shape = Shape(turn.size[1] / turn.size[0])
            camera = upright_camera(c2w, intrinsics, turn)
            views.append(PosedView(str(path), *camera, video_file(path, rate), label=name, shape=shape))
        yield from self.grids(views, count, rate)
