"""Real synchronized captures -> shards for evaluation: calibrated videos, cropped to the part that moves.

    python -m preparation.capture --takes unpacked/Pose2Sim/Demo_SinglePerson --output data/small

A take is a folder as the PyPI package pose2sim (BSD-3-Clause, (c) 2022 perfanalytics) has it: synchronized
`videos/*.mp4` and a Qualisys calibration `calibration/*.qca.txt` with a camera of each video's name. Every view
is resampled to a square pinhole image without lens distortion around the part that moves; the crop is fixed over
time and part of the intrinsics. Captures are only evaluated on, never trained on.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from preparation.readers.calibrated_videos import is_of_stored, turned_camera
from preparation.readers.picture_shape import Shape, check_shape
from preparation.readers.qualisys import CalibratedCamera, read_calibration
from preparation.readers.windows import without
from preparation.rendering.lens import bilinear
from preparation.writing import jobs
from scene4d.folders import listed
from scene4d.sample_format import SceneSample
from scene4d.video_files import Orientation, VideoInfo, read_frames, video_info

logger = logging.getLogger(__name__)
SOURCE = "capture"
MOTION = 25  # grey levels off the temporal median that count as motion
SHRINK = 8  # motion is looked for at this fraction of the resolution
PADDED = 0.03  # share of a video's height that codecs add to or cut off the calibrated picture
MARGIN = 1.1  # the crop is so many times larger than the part that moves


@dataclass(frozen=True)
class Takes:
    """Turns every take into one sample.

    Attributes:
        size: Side of a view in pixels.
        frames: Frames per sample.
        stride: Frames of the video from one frame of the sample to the next.
        start: First frame of the video that is taken.
        caption: Caption of all takes.
        license: Licence of all takes.
        skip: Cameras that are left out: names or shell patterns, separated by commas.
    """

    size: int
    frames: int
    stride: int
    start: int
    caption: str
    license: str
    skip: str = ""

    def options(self) -> dict[str, object]:
        """Returns all fields."""
        return asdict(self)

    def name(self, scene: Path) -> str:
        """Returns the name of a take's folder in lower case: `Demo_SinglePerson` -> `demo_singleperson`."""
        return "_".join(re.findall(r"[a-z0-9]+", scene.name.lower()))

    def read(self, scene: Path) -> Iterator[SceneSample]:
        """Yields one sample with all cameras of a take.

        Raises:
            ValueError: There is no calibration, a video has no camera or too few frames; names the file.
        """
        images, c2w, intrinsics, rates = [], [], [], set()
        for path, calibrated in _videos_with_cameras(scene, self.skip):
            frames, video = read_clip(path, self.frames, self.stride, self.start)
            camera = camera_of(calibrated, video.orientation, str(path))
            pinhole = crop_intrinsics(camera.intrinsics, moving_square(frames), self.size)
            images.append(resample(frames, camera, pinhole, self.size))
            c2w.append(camera.c2w)
            intrinsics.append(pinhole)
            rates.add(round(video.rate / self.stride, 3))
            logger.info("%s: focal length %.0f pixels", path, pinhole[0, 0])
        if len(rates) != 1:
            raise ValueError(f"{scene}: the videos run at different rates: {sorted(rates)} frames per second")
        name = self.name(scene)
        yield SceneSample(
            key=name, source=SOURCE, images=np.stack(images), fps=rates.pop(),
            c2w=np.stack(c2w).astype(np.float32), intrinsics=np.stack(intrinsics).astype(np.float32),
            caption=self.caption, group=name, license=self.license,
        )  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; see the top of this file."""
    options = _parser().parse_args(args)
    takes = Takes(**{field.name: getattr(options, field.name) for field in fields(Takes)})
    jobs.run(SOURCE, options, lambda: (takes, options.takes))


def read_clip(
    path: Path, num_frames: int, stride: int, start: int
) -> tuple[UInt8[ndarray, "t h w 3"], VideoInfo]:
    """Decodes frames start, start + stride, ... at full size; frame k is at k / rate seconds.

    Raises:
        ValueError: The file cannot be decoded or is too short; names it.
    """
    wanted, info = range(start, start + (num_frames - 1) * stride + 1, stride), video_info(path)
    if wanted[-1] >= info.count:
        there = sum(number < info.count for number in wanted)
        raise ValueError(f"{path} has {there} of the {num_frames} frames {wanted}")
    return np.stack(list(read_frames(path, info.times(wanted)))), info


def camera_of(calibrated: CalibratedCamera, video: Orientation, name: str) -> CalibratedCamera:
    """Returns the camera of the upright frames; a calibration of the shape of the stored ones is turned with them.

    Raises:
        ValueError: The stored frames are mirrored, or have not the shape of the calibration; names the video.
    """
    aspect = calibrated.size[0] / calibrated.size[1]
    stored = is_of_stored(aspect, video)
    check_shape(name, (video.width, video.height) if stored else video.size[::-1], Shape(aspect, PADDED))
    if not stored:
        return calibrated.resized(*video.size[::-1])
    camera = calibrated.resized(video.width, video.height)
    c2w, intrinsics = turned_camera(camera.c2w, camera.intrinsics, video)
    tangential = video.matrix()[:2, :2] @ camera.distortion[:1:-1]  # (p2, p1) is a vector of the image
    distortion = np.concatenate([camera.distortion[:2], tangential[::-1]])
    return CalibratedCamera(camera.name, video.size[::-1], c2w, intrinsics, distortion)


def moving_square(frames: UInt8[ndarray, "t h w 3"]) -> tuple[float, float, float]:
    """Finds the square around all that moves: its left and top edge and its side, in pixels.

    The square may leave the image.

    Raises:
        ValueError: Nothing moves.
    """
    grey = frames[:, ::SHRINK, ::SHRINK].astype(np.float32).mean(-1)
    moved = (np.abs(grey - np.median(grey, axis=0)) > MOTION).sum(0)
    if moved.sum() < 10:
        raise ValueError("nothing moves in front of one of the cameras")
    top, bottom = _extent(moved.sum(1))
    left, right = _extent(moved.sum(0))
    side = max(right - left, bottom - top) * MARGIN
    return (left + right - side) / 2 * SHRINK, (top + bottom - side) / 2 * SHRINK, side * SHRINK


def crop_intrinsics(
    intrinsics: Float[ndarray, "3 3"], square: tuple[float, float, float], size: int
) -> Float[ndarray, "3 3"]:
    """Returns intrinsics of the `size` x `size` image of a square (left, top, side) of the original."""
    left, top, side = square
    scale = size / side
    return np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]]) @ intrinsics


def resample(
    frames: UInt8[ndarray, "t h w 3"], camera: CalibratedCamera, pinhole: Float[ndarray, "3 3"], size: int
) -> UInt8[ndarray, "t s s 3"]:
    """Resamples frames to those of the ideal `pinhole` camera in the same place, averaged over each pixel's area.

    Points outside the original repeat its edge.
    """
    samples = int(np.ceil(camera.intrinsics[0, 0] / pinhole[0, 0] / 2))  # per side; bilinear reads 2 pixels
    steps = (np.arange(size * samples) + 0.5) / samples
    pixels = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    rays = (pixels - pinhole[:2, 2]) / pinhole[[0, 1], [0, 1]]
    places = camera.distort(rays) @ camera.intrinsics[:2, :2].T + camera.intrinsics[:2, 2]
    result = []
    for frame in frames:
        values = bilinear(frame, places).reshape(size, samples, size, samples, 3)
        result.append(np.round(values.mean((1, 3))).astype(np.uint8))
    return np.stack(result)


def _extent(counts: Int[ndarray, "n"]) -> tuple[int, int]:
    """Returns the first and last place (half-open) of the middle 99% of the counts."""
    share = np.cumsum(counts) / counts.sum()
    return int(np.searchsorted(share, 0.005)), int(np.searchsorted(share, 0.995)) + 1


def _videos_with_cameras(take: Path, skip: str) -> Iterator[tuple[Path, CalibratedCamera]]:
    calibrations = listed(take / "calibration", ["*.qca.txt"])
    if len(calibrations) != 1:
        raise ValueError(f"{take}/calibration holds {len(calibrations)} files *.qca.txt, expected one")
    cameras = {camera.name: camera for camera in read_calibration(calibrations[0])}
    videos = listed(take / "videos", [".mp4"])
    if not videos:
        raise ValueError(f"{take}/videos holds no *.mp4")
    kept = without([path.stem for path in videos], skip, str(take))
    for path in (path for path in videos if path.stem in kept):
        if path.stem not in cameras:
            raise ValueError(f"{path} has no camera in {calibrations[0].name}, which has {sorted(cameras)}")
        yield path, cameras[path.stem]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--takes", type=Path, nargs="+", required=True, help="folders of takes; each becomes one sample"
    )
    jobs.add_options(parser, splits=("val",), unit="takes", crf=10)
    parser.add_argument("--size", type=int, default=64, help="side of a view in pixels")
    parser.add_argument("--frames", type=int, default=29, help="frames per sample, 4k + 1")
    parser.add_argument("--stride", type=int, default=3, help="take every n-th frame")
    parser.add_argument("--start", type=int, default=7, help="first frame of the video that is taken")
    parser.add_argument("--caption", default="a man in a swimming cap balances on a treadmill")
    parser.add_argument("--skip", default="", help="cameras to leave out, separated by commas")
    parser.add_argument("--license", default="BSD-3-Clause, (c) 2022 perfanalytics, from pose2sim")
    return parser
