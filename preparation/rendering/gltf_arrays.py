"""The numbers of a glTF file: accessors as arrays, and the bytes of buffer views.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (sections 3.6 and 3.11)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from preparation.rendering.gltf_file import GltfFile

COMPONENTS = {
    5120: np.int8,
    5121: np.uint8,
    5122: np.int16,
    5123: np.uint16,
    5125: np.uint32,
    5126: np.float32,
}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class GltfArrays:
    """Reads accessors of one file.

    Args:
        file: The file, whose buffers are read when the first number is asked for.
    """

    def __init__(self, file: GltfFile) -> None:
        self.file = file

    @cached_property
    def _buffers(self) -> list[bytes]:
        return [self.file.data(buffer) for buffer in self.file.document.get("buffers", [])]

    def view(self, number: int) -> bytes:
        """Returns the bytes of a buffer view."""
        view = self.file.document["bufferViews"][number]
        start = view.get("byteOffset", 0)
        return self._buffers[view["buffer"]][start : start + view["byteLength"]]

    def array(self, number: int) -> Shaped[ndarray, "n width"]:
        """Reads an accessor: strided, sparse and normalised ones too; the latter become floats in [-1, 1].

        Raises:
            ValueError: It does not lie within its buffer, or is of a kind that glTF does not have; names the file.
        """
        accessor = self.file.document["accessors"][number]
        try:
            values = self._stored(accessor, accessor["count"], accessor["componentType"], accessor["type"])
            if "sparse" in accessor:
                values = self._replaced(values, accessor)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{self.file.path}: accessor {number} cannot be read: {error!r}") from error
        return _normalised(values) if accessor.get("normalized") else values

    def _stored(self, place: dict, count: int, component: int, kind: str) -> Shaped[ndarray, "n width"]:
        """Reads `count` elements at a place in a buffer view; zeros if the place has none."""
        dtype, width = np.dtype(COMPONENTS[component]).newbyteorder("<"), WIDTHS[kind]
        if "bufferView" not in place:
            return np.zeros((count, width), dtype)
        stride = self.file.document["bufferViews"][place["bufferView"]].get(
            "byteStride", dtype.itemsize * width
        )
        data = self.view(place["bufferView"])
        steps = (stride, dtype.itemsize)
        return np.ndarray((count, width), dtype, data, place.get("byteOffset", 0), steps).copy()

    def _replaced(self, values: Shaped[ndarray, "n width"], accessor: dict) -> Shaped[ndarray, "n width"]:
        sparse = accessor["sparse"]
        indices = self._stored(
            sparse["indices"], sparse["count"], sparse["indices"]["componentType"], "SCALAR"
        )
        kinds = (accessor["componentType"], accessor["type"])
        values[indices[:, 0]] = self._stored(sparse["values"], sparse["count"], *kinds)
        return values


def _normalised(values: Shaped[ndarray, "n width"]) -> Shaped[ndarray, "n width"]:
    """Turns integers into floats (section 3.6.2.2, eq. of KHR_mesh_quantization)."""
    return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1)
