"""Synchronized videos or photos of one scene, one per view, for the reconstruction."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import LightningDataModule
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.middle_cut import Size, cut_middle, height_and_width, read_middles
from datamodules.rig_cameras import read_rig
from scene4d.folders import listed
from scene4d.pictures import open_picture
from scene4d.types import SceneBatch
from scene4d.video_files import frame_times
from scene4d.video_files.frames import read_orientation

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".ts")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
HOLDS = "one video per view, one folder of pictures per view, or one picture per view"
LONGEST = 518  # pixels; VGGT's reference length, more would only be scaled down again
ROUNDED = 0.05  # frames; some files round their times to milliseconds

log = logging.getLogger(__name__)


class View(Protocol):
    """What one camera has seen."""

    path: Path

    def count(self, fps: float, most: int) -> int:
        """Number of timesteps at `fps`, at most `most`."""

    def shape(self) -> tuple[int, int]:
        """Height and width of its first frame, the right way up."""

    def read(self, fps: float, count: int, size: Size) -> Float[Tensor, "t 3 h w"]:
        """The first timesteps in [0, 1], of each the middle part of the shape of `size`, scaled to it."""


class SynchronizedViews(LightningDataModule):
    """Reads what several cameras have seen at the same time as one grid, all of it given.

    The folder holds one of three: one video per view, one folder of pictures per view, or one picture per view, which
    makes a single timestep. Views come in natural order of their names (`cam2` before `cam10`), and names that begin
    with a dot are left out. The sizes and frame rates of the views may differ. Of every frame, the right way up, the
    largest middle part of the shape of `size` is scaled to it. All views start with their first frame; the shortest one
    decides where they end.

    Args:
        folder: The folder. Other files in it are ignored.
        size: Height and width of the grid in pixels, one number for squares. None takes the shape of the first view,
            whole, with a longer side of at most 518 pixels. The reconstructor brings any size to one that its network
            accepts, see `scene4d.geometry.accepted_sizes`.
        frames: Largest number of timesteps that are taken, from the first on.
        fps: Timesteps per second. Of a video with another rate the frame nearest in time is taken. Pictures in folders
            have no times: each is a timestep.
        views: Largest number of views, evenly chosen from the first to the last; None takes all.
        key: Name of the scene; None takes the folder's.
        cameras: A `transforms.json` of nerfstudio's form, if the cameras are known, which must stand still; see
            `datamodules.rig_cameras`. `model.init_args.known` says what is used of them.

    Raises:
        ValueError: A number is out of range; names it.
    """

    def __init__(
        self,
        folder: str,
        size: Size | None = 64,
        frames: int = 17,
        fps: float = 12.0,
        views: int | None = None,
        key: str | None = None,
        cameras: str | None = None,
    ) -> None:
        super().__init__()
        if size is not None:
            height_and_width(size)
        for name, value, least in (("frames", frames, 1), ("views", views, 2)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps must be positive, got {fps}")
        self.folder, self.size, self.frames, self.fps, self.views = Path(folder), size, frames, fps, views
        self.key = self.folder.resolve().name if key is None else key
        self.cameras = cameras
        self.batch: SceneBatch | None = None

    def setup(self, stage: str) -> None:
        """Reads all views."""
        self.batch = self.read()

    def read(self) -> SceneBatch:
        """Reads all views as a batch of one grid.

        Raises:
            ValueError: The folder is missing, holds less than two views or several kinds of them, or a file is
                unreadable or says no cameras of the views; names it.
        """
        found = find_views(self.folder)
        most = min(self.views or len(found), len(found))
        views = [found[k] for k in np.linspace(0, len(found) - 1, most).round().astype(int)]
        count = self._timesteps(views)
        size = at_most(views[0].shape()) if self.size is None else height_and_width(self.size)
        images = torch.stack([view.read(self.fps, count, size) for view in views])[None]
        log.info(
            "%s: %s; the middle of every frame is scaled to %d x %d", self.folder,
            f"{most} of {len(found)} views x {count} timesteps at {self.fps:g} a second", *size,
        )  # fmt: skip
        cameras = None
        if self.cameras is not None:
            names = [view.path.name if view.path.is_dir() else view.path.stem for view in views]
            cameras = read_rig(self.cameras, names, [view.shape() for view in views], size)
        return SceneBatch(
            images=images, cameras=cameras, frame_times=(torch.arange(count) / self.fps)[None],
            reference=torch.ones(images.shape[:3], dtype=torch.bool), source=["user"], keys=[self.key],
        )  # fmt: skip

    def _timesteps(self, views: list[View]) -> int:
        """Timesteps that all views have; one line says so where some have more."""
        counts = [view.count(self.fps, self.frames) for view in views]
        shortest, longest = int(np.argmin(counts)), int(np.argmax(counts))
        if counts[shortest] < counts[longest]:
            log.warning(
                "%s: %r ends after %d timesteps and %r after %s; the first %d are taken of every view",
                self.folder, views[shortest].path.name, counts[shortest], views[longest].path.name,
                f"{counts[longest]} or more", counts[shortest],
            )  # fmt: skip
        return counts[shortest]

    def predict_dataloader(self) -> DataLoader:
        """One batch of one scene."""
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]  # a list will do


def read_views(
    folder: str,
    size: Size | None = 64,
    frames: int = 17,
    fps: float = 12.0,
    views: int | None = None,
    key: str | None = None,
    cameras: str | None = None,
) -> SceneBatch:
    """Reads a folder of views as one grid; arguments and errors are those of `SynchronizedViews`."""
    return SynchronizedViews(folder, size, frames, fps, views, key, cameras).read()


def at_most(shape: tuple[int, int]) -> tuple[int, int]:
    """The shape, made smaller so that its longer side has at most `LONGEST` pixels."""
    scale = min(1.0, LONGEST / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def find_views(folder: Path) -> list[View]:
    """The views that a folder holds, in natural order.

    Raises:
        ValueError: It is missing, holds less than two views, or several kinds of them; names it.
    """
    if not folder.is_dir():
        raise ValueError(f"folder {str(folder)!r} does not exist; it should hold {HOLDS}")
    videos, pictures = (_files(folder, suffixes) for suffixes in (VIDEOS, PICTURES))
    folders = [path for path in listed(folder, ["*"]) if path.is_dir()]
    filled = [path for path in folders if _files(path, PICTURES)]
    kinds = {"videos": videos, "pictures": pictures, "folders of pictures": filled}
    counts = [f"{len(paths)} {kind}" for kind, paths in kinds.items() if paths]
    if len(counts) > 1:
        raise ValueError(f"{str(folder)!r} holds {' and '.join(counts)}; it should hold {HOLDS}")
    views = [*map(VideoView, videos), *map(Photo, pictures), *(map(PictureFolder, folders) if filled else ())]
    if len(views) < 2:
        raise ValueError(
            f"{str(folder)!r} holds {counts[0] if counts else 'no view'}, expected at least 2 views: {HOLDS} "
            f"({', '.join((*VIDEOS, *PICTURES))})"
        )
    return views


class VideoView:
    """A video file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, fps: float, most: int) -> int:
        """Number of timesteps at `fps`, at most `most`; the last frame stays as long as the one before."""
        times = frame_times(self.path, until=most / fps)
        seconds = 2 * times[-1] - times[-2] if len(times) > 1 else 0.0
        return min(most, max(1, math.ceil(seconds * fps - ROUNDED)))

    def shape(self) -> tuple[int, int]:
        """Height and width of its frames, the right way up."""
        return read_orientation(self.path).size

    def read(self, fps: float, count: int, size: Size) -> Float[Tensor, "t 3 h w"]:
        """The frames that are nearest to 0, 1 / fps, 2 / fps, ..."""
        return read_middles(str(self.path), (np.arange(count) / fps).tolist(), size)


class PictureFolder:
    """A folder of pictures, one per timestep."""

    def __init__(self, path: Path) -> None:
        self.path, self.pictures = path, _files(path, PICTURES)
        if not self.pictures:
            raise ValueError(f"{str(path)!r} holds no picture ({', '.join(PICTURES)}), the other views do")

    def count(self, fps: float, most: int) -> int:
        """Number of pictures, at most `most`."""
        return min(most, len(self.pictures))

    def shape(self) -> tuple[int, int]:
        """Height and width of the first picture, the right way up."""
        height, width = read_picture(self.pictures[0]).shape[:2]
        return height, width

    def read(self, fps: float, count: int, size: Size) -> Float[Tensor, "t 3 h w"]:
        """The first pictures in natural order."""
        return torch.stack(list(_middles(self.pictures[:count], size)))


class Photo(PictureFolder):
    """A single picture."""

    def __init__(self, path: Path) -> None:
        self.path, self.pictures = path, [path]


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [path for path in listed(folder, suffixes) if path.is_file()]


def _middles(pictures: list[Path], size: Size) -> Iterator[Float[Tensor, "3 h w"]]:
    for path in pictures:
        yield cut_middle(read_picture(path), size)


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture the right way up, on white where it is transparent; of 16 bits the upper 8.

    Raises:
        ValueError: It is unreadable; names it.
    """
    try:
        with open_picture(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
            layer = image.convert("RGBA")
            return np.array(  # torch warns of arrays that cannot be written
                Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
            )
    except Exception as error:  # Pillow raises many types
        raise ValueError(f"picture {str(path)!r} cannot be read: {error}") from error
