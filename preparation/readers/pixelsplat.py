"""Chunks of pixelSplat (RealEstate10K, ACID and others as `*.torch`) -> stills along the camera path.

    python -m preparation.pixelsplat --root re10k/train --output data/re10k --shard-size 1

`--root` holds `index.json`, which names the chunk file of every scene key, and the chunks. A chunk is a list of
scenes {key, cameras, images}: `cameras` is n x 18 as in the files of RealEstate10K without the timestamp, `images`
are n JPEG files as uint8 tensors. Chunks are opened with `torch.load(weights_only=True)`, which runs no code from
the file. A shard holds `--shard-size` chunks of about 100 MB. Source: https://github.com/dcharatan/pixelsplat
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from preparation.readers.picture_shape import Shape, as_calibrated, check_shape
from preparation.readers.posed_views import PosedView
from preparation.readers.realestate import camera_of_row, shape_of
from preparation.readers.windows import PathWindows
from preparation.writing.jobs import SkippedScene
from scene4d.pictures import open_picture
from scene4d.sample_format import SceneSample


@dataclass(frozen=True)
class PixelSplat(PathWindows):
    """Reads one chunk; a damaged scene in it is skipped, the others are kept."""

    source: ClassVar[str] = "pixelsplat"
    terms: ClassVar[str] = "see the terms of the data set and of its videos"

    def find_scenes(self, root: Path) -> list[Path]:
        """Returns all chunks that the index names.

        Raises:
            ValueError: There is no readable index.
        """
        path = root / "index.json"
        try:
            return sorted({root / name for name in json.loads(path.read_text()).values()})
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path}: expected a JSON object, chunk by scene key: {error}") from error

    def read_scene(self, scene: Path) -> Iterator[SceneSample | SkippedScene]:
        """Yields windows of all scenes of a chunk.

        Raises:
            ValueError: The chunk cannot be opened, or is not a list of scenes; names it.
        """
        for number, example in enumerate(_load(scene)):
            key = str(example.get("key", number)) if isinstance(example, dict) else str(number)
            try:
                yield from self._windows(example, key)
            except Exception as error:  # one damaged scene does not lose the chunk
                yield SkippedScene(key, f"{type(error).__name__}: {error}")

    def _windows(self, example: dict, key: str) -> Iterator[SceneSample]:
        missing = {"cameras", "images"} - set(example)
        if missing:
            raise ValueError(f"expected cameras and images, {sorted(missing)} missing")
        cameras, images = example["cameras"], example["images"]
        if cameras.shape != (len(images), 18):
            raise ValueError(f"cameras are {tuple(cameras.shape)}, expected ({len(images)}, 18)")
        path = []
        for number, (row, data) in enumerate(zip(cameras.double().tolist(), images)):
            c2w, intrinsics = camera_of_row(row)
            frames = _Jpeg(data, f"image {number}", shape_of(intrinsics))
            path.append(PosedView(frames.name, c2w, intrinsics, frames))
        for sample in self.stills(path):
            sample.key, sample.group = f"{re.sub(r'[^A-Za-z0-9_]+', '-', key)}-{sample.key}", key
            yield sample


class _Jpeg:
    """Opens an encoded picture held as a tensor."""

    def __init__(self, data: Tensor, name: str, shape: Shape) -> None:
        self.data = data
        self.name = name
        self.shape = shape

    def __call__(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        for _ in numbers:
            image = as_calibrated(
                open_picture(io.BytesIO(self.data.numpy().tobytes())), self.name, self.shape
            )
            check_shape(self.name, image.size, self.shape)
            yield image.convert("RGB")


def _load(path: Path) -> list[dict]:
    try:
        chunk = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: expected a torch file: {error}") from error
    except Exception as error:  # the errors of the restricted unpickler have no common type
        raise ValueError(f"{path}: expected a torch file of lists, dicts and tensors only") from error
    if not isinstance(chunk, list):
        raise ValueError(f"{path}: expected a list of scenes, found {type(chunk).__name__}")
    return chunk
