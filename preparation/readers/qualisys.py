"""Calibrations of real cameras from Qualisys files (`*.qca.txt`), in this project's conventions."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.rendering.lens import distort

SUBPIXELS = 64  # lengths on the sensor are in 1/64 pixel
METRES = 1e-3  # positions are in millimetres


@dataclass
class CalibratedCamera:
    """One real camera with its lens.

    Attributes:
        name: Serial number in the file.
        size: Width and height of the calibrated image in pixels.
        c2w: OpenCV camera-to-world matrix, metres.
        intrinsics: Intrinsics in pixels, pixel centres at +0.5.
        distortion: k1, k2 (radial) and p1, p2 (tangential), as OpenCV names them.
    """

    name: str
    size: tuple[int, int]
    c2w: Float[ndarray, "4 4"]
    intrinsics: Float[ndarray, "3 3"]
    distortion: Float[ndarray, "4"]

    def resized(self, width: int, height: int) -> CalibratedCamera:
        """Returns the camera of a video scaled to `width` and then cropped or padded about its centre."""
        scale = width / self.size[0]
        change = np.diag([scale, scale, 1.0])
        change[0, 2], change[1, 2] = 0.0, (height - scale * self.size[1]) / 2
        return CalibratedCamera(
            self.name, (width, height), self.c2w, change @ self.intrinsics, self.distortion
        )

    def project(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 2"]:
        """Projects world points (metres) through the lens to pixels; see OpenCV's camera model."""
        local = (points - self.c2w[:3, 3]) @ self.c2w[:3, :3]
        distorted = self.distort(local[:, :2] / local[:, 2:])
        return distorted @ self.intrinsics[:2, :2].T + self.intrinsics[:2, 2]

    def distort(self, rays: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Moves ideal image points at z = 1 to where the lens puts them."""
        return distort(rays, self.distortion.tolist())


def read_calibration(path: Path) -> list[CalibratedCamera]:
    """Reads all active cameras, in the order of the file.

    Raises:
        ValueError: The file is not such a calibration; names it.
    """
    try:
        root = ElementTree.parse(path).getroot()
        cameras = [_camera(element) for element in root.iter("camera") if element.get("active", "1") == "1"]
    except (ElementTree.ParseError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no Qualisys calibration: {error}") from error
    if not cameras:
        raise ValueError(f"{path} holds no active camera")
    return cameras


def _camera(element: ElementTree.Element) -> CalibratedCamera:
    pose, lens, field = (_numbers(element.find(name)) for name in ("transform", "intrinsic", "fov_video"))
    rotation = np.array([[pose[f"r{row}{column}"] for column in (1, 2, 3)] for row in (1, 2, 3)])
    c2w = np.eye(4)
    c2w[:3, :3] = (np.diag([1.0, -1.0, -1.0]) @ rotation).T  # the file's camera looks along -z, y up
    c2w[:3, 3] = np.array([pose["x"], pose["y"], pose["z"]]) * METRES
    intrinsics = np.eye(3)
    intrinsics[0, 0], intrinsics[1, 1] = lens["focalLengthU"] / SUBPIXELS, lens["focalLengthV"] / SUBPIXELS
    intrinsics[0, 2] = lens["centerPointU"] / SUBPIXELS + 0.5  # the file's pixel centres are at whole numbers
    intrinsics[1, 2] = lens["centerPointV"] / SUBPIXELS + 0.5
    names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
    size = (int(field["right"] - field["left"]) + 1, int(field["bottom"] - field["top"]) + 1)
    return CalibratedCamera(
        element.attrib["serial"], size, c2w, intrinsics, np.array([lens[name] for name in names])
    )


def _numbers(element: ElementTree.Element | None) -> dict[str, float]:
    if element is None:
        raise KeyError("a camera lacks transform, intrinsic or fov_video")
    return {name: float(value) for name, value in element.attrib.items()}
