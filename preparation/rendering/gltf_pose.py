"""The pose of a glTF file at any time: matrices of its nodes and weights of its morph targets.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (section 3.11 and appendix C)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from preparation.rendering.gltf_arrays import GltfArrays

REST = {"translation": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0), "scale": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Channel:
    """Keys of one property of one node.

    Attributes:
        node: Number of the node.
        path: `translation`, `rotation` (xyzw), `scale` or `weights`.
        mode: `LINEAR`, `STEP` or `CUBICSPLINE`.
        times: Times of the keys, seconds, ascending.
        values: Value at every key; for CUBICSPLINE incoming tangent, value and outgoing tangent.
    """

    node: int
    path: str
    mode: str
    times: Float[ndarray, "k"]
    values: Float[ndarray, "k tangents width"]

    def at(self, times: Float[ndarray, "t"]) -> Float[ndarray, "t width"]:
        """Interpolates between the keys; before the first and behind the last key their values hold."""
        before = np.searchsorted(self.times, times, "right").clip(1, len(self.times)) - 1
        after = np.minimum(before + 1, len(self.times) - 1)
        length = self.times[after] - self.times[before]
        share = ((times - self.times[before]) / np.where(length > 0, length, 1)).clip(0, 1)[:, None]
        if self.mode == "CUBICSPLINE":
            return self._spline(before, after, length[:, None], share)
        first, second = self.values[before, 0], self.values[after, 0]
        if self.mode == "STEP":
            return np.where(share < 1, first, second)
        return _slerp(first, second, share) if self.path == "rotation" else first + share * (second - first)

    def _spline(
        self, before: ndarray, after: ndarray, length: Float[ndarray, "t 1"], share: Float[ndarray, "t 1"]
    ) -> Float[ndarray, "t width"]:
        """Evaluates the cubic Hermite spline of appendix C.4."""
        square, cube = share**2, share**3
        found = (2 * cube - 3 * square + 1) * self.values[before, 1]
        found += length * (cube - 2 * square + share) * self.values[before, 2]
        found += (3 * square - 2 * cube) * self.values[after, 1]
        found += length * (cube - square) * self.values[after, 0]
        return found / np.linalg.norm(found, axis=1, keepdims=True) if self.path == "rotation" else found


def read_channels(arrays: GltfArrays, animation: int) -> list[Channel]:
    """Reads what an animation moves; targets that only extensions know are left out.

    Raises:
        ValueError: Keys and values do not fit together, or an interpolation is unknown; names the file.
    """
    described = arrays.file.document["animations"][animation]
    channels = []
    for channel in described["channels"]:
        sampler, target = described["samplers"][channel["sampler"]], channel["target"]
        if "node" not in target or target["path"] not in {*REST, "weights"}:
            continue
        mode = sampler.get("interpolation", "LINEAR")
        times = arrays.array(sampler["input"])[:, 0].astype(float)
        values = arrays.array(sampler["output"]).astype(float)
        tangents = 3 if mode == "CUBICSPLINE" else 1
        if (
            mode not in ("LINEAR", "STEP", "CUBICSPLINE")
            or not len(times)
            or values.size % (len(times) * tangents)
        ):
            kind = f"{mode}, {len(times)} keys, {values.size} numbers"
            raise ValueError(f"{arrays.file.path}: animation {animation} has a sampler of {kind}")
        shaped = values.reshape(len(times), tangents, -1)
        channels.append(Channel(target["node"], target["path"], mode, times, shaped))
    return channels


def node_matrices(
    nodes: list[dict], shown: list[int], channels: list[Channel], times: Float[ndarray, "t"]
) -> dict[int, Float[ndarray, "t 4 4"]]:
    """Returns the matrix of every shown node from its own axes to those of the scene.

    Args:
        nodes: All nodes of the file.
        shown: Nodes of the scene, parents before their children.
        channels: What moves; everything else is at rest.
        times: Instants, seconds.
    """
    moved = {
        (channel.node, channel.path): channel.at(times) for channel in channels if channel.path != "weights"
    }
    parents = {child: number for number in shown for child in nodes[number].get("children", [])}
    found: dict[int, ndarray] = {}
    for number in shown:
        local = _local(nodes[number], number, moved, len(times))
        found[number] = found[parents[number]] @ local if parents.get(number) in found else local
    return found


def morph_weights(
    node: int, rest: list[float], channels: list[Channel], times: Float[ndarray, "t"]
) -> Float[ndarray, "t targets"]:
    """Returns the weights of a node's morph targets.

    Args:
        node: Number of the node.
        rest: Weights without animation.
        channels: What moves.
        times: Instants, seconds.
    """
    for channel in channels:
        if channel.node == node and channel.path == "weights":
            return channel.at(times)
    return np.tile(np.asarray(rest, float), (len(times), 1))


def _local(
    node: dict, number: int, moved: dict[tuple[int, str], ndarray], count: int
) -> Float[ndarray, "t 4 4"]:
    if "matrix" in node and not any((number, path) in moved for path in REST):
        return np.tile(np.reshape(node["matrix"], (4, 4)).T.astype(float), (count, 1, 1))
    rest = {path: np.asarray(node.get(path, default), float) for path, default in REST.items()}
    translation, rotation, scale = (
        moved.get((number, path), np.broadcast_to(value, (count, len(value)))) for path, value in rest.items()
    )
    local = np.zeros((count, 4, 4))
    local[:, :3, :3] = _turn(rotation) * scale[:, None, :]
    local[:, :3, 3] = translation
    local[:, 3, 3] = 1
    return local


def _turn(quaternions: Float[ndarray, "t 4"]) -> Float[ndarray, "t 3 3"]:
    """Turns xyzw quaternions of any length into rotations."""
    unit = quaternions / np.maximum(np.linalg.norm(quaternions, axis=1, keepdims=True), 1e-12)
    x, y, z, w = unit.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def _slerp(
    first: Float[ndarray, "t 4"], second: Float[ndarray, "t 4"], share: Float[ndarray, "t 1"]
) -> Float[ndarray, "t 4"]:
    """Interpolates rotations along the shorter arc (appendix C.3); nearly equal ones linearly."""
    cosine = (first * second).sum(1, keepdims=True)
    second, cosine = np.where(cosine < 0, -second, second), np.abs(cosine).clip(0, 1)
    angle = np.arccos(cosine)
    sine = np.where(cosine > 0.9999995, 1, np.sin(angle))
    by_arc = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / sine
    return np.where(cosine > 0.9999995, first + share * (second - first), by_arc)
