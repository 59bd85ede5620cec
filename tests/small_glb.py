"""GLB files written by hand from the specification of glTF 2.0."""

import json
import struct

import numpy as np

COMPONENTS = {
    np.dtype(np.int8): 5120, np.dtype(np.uint8): 5121, np.dtype(np.int16): 5122, np.dtype(np.uint16): 5123,
    np.dtype(np.uint32): 5125, np.dtype(np.float32): 5126,
}  # fmt: skip
TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)


class SmallGlb:
    """Collects buffers and describes triangles, animations and scenes."""

    def __init__(self, positions=None):
        self.data, self.views, self.accessors, self.animations = b"", [], [], []
        self.positions = self.add(TRIANGLE if positions is None else positions, "VEC3")

    def view(self, data, **more):
        """Appends bytes as a buffer view that begins at a multiple of four."""
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **more})
        self.data += data
        return len(self.views) - 1

    def add(self, array, kind, dtype=np.float32, **more):
        array = np.asarray(array, dtype)
        self.accessors.append({
            "bufferView": self.view(array.tobytes()), "componentType": COMPONENTS[np.dtype(dtype)],
            "type": kind, "count": len(array),
            "min": np.atleast_1d(array.min(0)).tolist(), "max": np.atleast_1d(array.max(0)).tolist(), **more,
        })  # fmt: skip
        return len(self.accessors) - 1

    def animate(self, name, *channels):
        """`channels`: (node, path, times, values) or (node, path, times, values, interpolation)."""
        samplers, targets = [], []
        for number, (node, path, times, values, *mode) in enumerate(channels):
            kind = {"weights": "SCALAR", "rotation": "VEC4"}.get(path, "VEC3")
            samplers.append({"input": self.add(times, "SCALAR"), "output": self.add(values, kind)})
            if mode:
                samplers[-1]["interpolation"] = mode[0]
            targets.append({"sampler": number, "target": {"node": node, "path": path}})
        self.animations.append({"name": name, "samplers": samplers, "channels": targets})

    def write(self, path, nodes, morph=None, attributes=None, material=None, indices=None, mode=4, **more):
        primitive = {"attributes": {"POSITION": self.positions, **(attributes or {})}, "mode": mode}
        primitive |= {} if material is None else {"material": material}
        primitive |= {} if indices is None else {"indices": indices}
        mesh = {"primitives": [primitive]}
        if morph is not None:
            primitive["targets"] = [{"POSITION": self.add(morph, "VEC3")}]
            mesh["weights"] = [0.0]
        document = {
            "asset": {"version": "2.0"}, "nodes": nodes, "meshes": [mesh], "animations": self.animations,
            "accessors": self.accessors, "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}], **more,
        }  # fmt: skip
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(self.data), 0x004E4942) + self.data
        path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
        return path
