"""GLB files written by hand from the specification of glTF 2.0."""

import json
import struct

import numpy as np

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)


class SmallGlb:
    """Collects buffers and describes triangles, animations and scenes."""

    def __init__(self):
        self.data, self.views, self.accessors, self.animations = b"", [], [], []
        self.positions = self.add(TRIANGLE, "VEC3")

    def add(self, array, kind):
        array = np.asarray(array, np.float32)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes})
        self.accessors.append({
            "bufferView": len(self.views) - 1, "componentType": 5126, "type": kind, "count": len(array),
            "min": np.atleast_1d(array.min(0)).tolist(), "max": np.atleast_1d(array.max(0)).tolist(),
        })  # fmt: skip
        self.data += array.tobytes()
        return len(self.accessors) - 1

    def animate(self, name, *channels):
        """`channels`: (node, path, times, values)."""
        samplers, targets = [], []
        for number, (node, path, times, values) in enumerate(channels):
            kind = {"weights": "SCALAR", "rotation": "VEC4"}.get(path, "VEC3")
            samplers.append({"input": self.add(times, "SCALAR"), "output": self.add(values, kind)})
            targets.append({"sampler": number, "target": {"node": node, "path": path}})
        self.animations.append({"name": name, "samplers": samplers, "channels": targets})

    def write(self, path, nodes, morph=None, **more):
        primitive = {"attributes": {"POSITION": self.positions}}
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
