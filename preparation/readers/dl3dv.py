"""DL3DV-10K -> stills along the camera path.

    python -m preparation.dl3dv --root DL3DV-10K --output data/dl3dv --images images_4

A scene is a folder with `transforms.json` as nerfstudio writes it (intrinsics of the full-size pictures, see
transforms.py, camera-to-world with OpenGL axes) and pictures shrunk into `images_4`, `images_8`. Pictures are freed of
the lens distortion. Masks and depth are not read. So `--images images` reads the scenes of nerfstudio, instant-ngp and
others that people made of their own photographs. Sources: https://dl3dv-10k.github.io and
https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from preparation.readers.posed_views import OPENGL_TO_OPENCV, PosedView, find_folders, image_files
from preparation.readers.transforms import distortion, intrinsics
from preparation.readers.windows import PathWindows, option
from scene4d.folders import natural_key
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample
from scene4d.transforms_json import Values, merged

logger = logging.getLogger(__name__)
NOT_READ = ("mask_path", "depth_file_path")
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")  # where the file names its pictures without any


@dataclass(frozen=True)
class DL3DV(PathWindows):
    """Reads one scene.

    Attributes:
        images: Folder of the pictures.
    """

    source: ClassVar[str] = "dl3dv"
    terms: ClassVar[str] = "see the terms of DL3DV-10K (https://dl3dv-10k.github.io)"
    images: str = option("images_4", "folder of the pictures inside a scene")

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all folders with a `transforms.json`."""
        return find_folders(root, "transforms.json")

    def read_scene(self, scene: Path) -> Iterator[SceneSample]:
        """Yields windows of one scene, its frames in the natural order of their file names.

        Raises:
            ValueError: A key is missing or malformed; names the file and the key.
        """
        path = scene / "transforms.json"
        try:
            meta = json.loads(path.read_text())
            frames = sorted(meta["frames"], key=lambda frame: natural_key(frame["file_path"]))
            views = [self._view(scene, merged(meta, frame), frame["file_path"]) for frame in frames]
        except KeyError as error:
            raise ValueError(f"{path}: expected a key {error}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path}: a value has another type than expected: {error}") from error
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from error
        if len({view.name for view in views}) < len(views):
            raise ValueError(f"{path}: two frames are the same picture in {scene / self.images}")
        ignored = [name for name in NOT_READ if any(name in frame for frame in frames)]
        if ignored:
            logger.info("%s: %s are not read", path, " and ".join(ignored))
        yield from self.stills(views)

    def _view(self, scene: Path, values: Values, name: str) -> PosedView:
        """`name` is the picture's path in the file."""
        picture = self._picture(scene, name)
        matrix, shape = intrinsics(values, lambda: _full_size(scene, name, picture, values))
        c2w = np.array(values["transform_matrix"], float).reshape(4, 4) @ OPENGL_TO_OPENCV
        frames = image_files([picture], shape)
        return PosedView(str(picture), c2w, matrix, frames, distortion=distortion(values))

    def _picture(self, scene: Path, name: str) -> Path:
        """Finds the shrunk copy of a picture, below the chosen folder or, without its subfolder, in it."""
        parts = Path(name.replace("\\", "/")).parts  # as written on Windows
        below = parts[1:] if parts[0].startswith("images") else parts
        folder = scene / self.images
        places = [folder.joinpath(*below), folder / parts[-1]]
        existing = (found for place in places for found in _with_suffix(place))
        return next(existing, places[-1])


def _with_suffix(place: Path) -> list[Path]:
    return [found for suffix in SUFFIXES if (found := place.with_name(place.name + suffix)).is_file()]


def _full_size(scene: Path, name: str, picture: Path, values: Values) -> tuple[int, int]:
    """Returns width and height of the picture that the file names, or of its copy where only the shape counts.

    Raises:
        ValueError: Focal length or principal point are in pixels of a picture that is not there.
    """
    full = next(iter(_with_suffix(scene / name)), None)
    if full is None and any(key in values for key in ("fl_x", "fl_y", "cx", "cy")):
        raise ValueError(f"expected keys 'w' and 'h', since {scene / name} is not there to be measured")
    with open_picture(full or picture) as image:
        return image.size
