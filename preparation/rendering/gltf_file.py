"""What a binary glTF file (GLB) shows: its default scene, one of its animations at a time, and its buffers.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (sections 3.5, 3.11 and 4.4)
"""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

MAGIC, JSON_CHUNK = 0x46546C67, 0x4E4F534A
WORD = 4  # bytes; the length of a chunk is a multiple
SHOWN = ("mesh", "skin", "camera", "extensions")  # what makes a node visible


@dataclass(frozen=True)
class Animation:
    """One animation of a file.

    Attributes:
        name: Name in the file, made unique.
        index: Place in the file.
        start: Time of the first key, seconds.
        end: Time of the last key, seconds.
    """

    name: str
    index: int
    start: float
    end: float


class GltfFile:
    """A GLB file, of which the description is parsed and the buffers are left as they are.

    Args:
        path: File to read.

    Raises:
        ValueError: The file is no GLB of glTF 2.0; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        try:
            magic, version, _, length, kind = struct.unpack_from("<5I", data)
            self.document = json.loads(data[20 : 20 + length])
        except (struct.error, ValueError) as error:
            raise ValueError(f"{path}: expected a binary glTF file: {error}") from error
        if (magic, version, kind) != (MAGIC, 2, JSON_CHUNK) or not isinstance(self.document, dict):
            raise ValueError(f"{path}: expected a binary glTF file of version 2")
        self.buffers = data[20 + length :]

    def animations(self) -> list[Animation]:
        """Lists the animations by name.

        Raises:
            ValueError: An animation is malformed; names the file.
        """
        found: dict[str, Animation] = {}
        try:
            for index, animation in enumerate(self.document.get("animations", [])):
                inputs = {sampler["input"] for sampler in animation["samplers"]}
                keys = [self.document["accessors"][number] for number in sorted(inputs)]
                low, high = min(key["min"][0] for key in keys), max(key["max"][0] for key in keys)
                name = _unused(animation.get("name") or f"Anim_{index}", found)
                found[name] = Animation(name, index, float(low), float(high))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: animation {index} is malformed: {error!r}") from error
        if not all(math.isfinite(clip.start) and math.isfinite(clip.end) for clip in found.values()):
            raise ValueError(f"{self.path}: the times of an animation are not finite")
        return sorted(found.values(), key=lambda clip: clip.name)

    def shown_nodes(self) -> list[int]:
        """Returns the nodes of the default scene, parents before their children; without scenes, all nodes."""
        nodes = self.document.get("nodes", [])
        if self.document.get("scenes"):
            roots = self.document["scenes"][self.document.get("scene", 0)].get("nodes", [])
        else:
            inner = {child for node in nodes for child in node.get("children", [])}
            roots = [number for number in range(len(nodes)) if number not in inner]
        return _below(nodes, roots)

    def data(self, item: dict) -> bytes:
        """Returns the bytes of a buffer or image that has an address, or those inside the file if it has none.

        Raises:
            ValueError: The address leads out of the file's folder; names both.
        """
        address = item.get("uri")
        if address is None:
            return self.buffers[2 * WORD :]  # behind the length and the kind of the chunk
        if address.startswith("data:"):
            return base64.b64decode(address.partition(",")[2])
        beside = (self.path.parent / unquote(address)).resolve()
        if not beside.is_relative_to(self.path.parent.resolve()):  # files of strangers
            raise ValueError(f"{self.path}: names {address!r}, which is not in its folder")
        return beside.read_bytes()

    def alone(self, animation: Animation) -> bytes:
        """Returns a GLB file with the default scene and one animation.

        Whatever the animation has no key for is then at rest, as the nodes of the file say. Nodes that are not in
        the scene stay, so that numbers hold, but show nothing.
        """
        document = {**self.document, "animations": [self.document["animations"][animation.index]]}
        for name in ("buffers", "images"):
            document[name] = [self._absolute(item) for item in document.get(name, [])]
        if document.get("scenes"):
            scene = document["scenes"][document.get("scene", 0)]
            inside = set(self.shown_nodes())
            document |= {"scene": 0, "scenes": [scene]}
            document["nodes"] = [
                node if number in inside else {key: node[key] for key in node if key not in SHOWN}
                for number, node in enumerate(document["nodes"])
            ]
        return self._packed({key: value for key, value in document.items() if value != []})

    def _packed(self, document: dict) -> bytes:
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % WORD)
        total = 20 + len(text) + len(self.buffers)
        return struct.pack("<5I", MAGIC, 2, total, len(text), JSON_CHUNK) + text + self.buffers

    def _absolute(self, item: dict) -> dict:
        """Lets the address of a file beside this one hold from everywhere."""
        address = item.get("uri")
        if address is None or address.startswith("data:"):
            return item
        return {**item, "uri": quote(str((self.path.parent / unquote(address)).resolve()))}


def _below(nodes: list[dict], roots: list[int]) -> list[int]:
    found: dict[int, None] = {}  # in order
    waiting = list(roots)
    while waiting:
        number = waiting.pop(0)
        if number not in found:
            found[number] = None
            waiting += nodes[number].get("children", [])
    return list(found)


def _unused(name: str, taken: dict[str, Animation]) -> str:
    suffixes = ["", *(f".{number:03d}" for number in range(1, len(taken) + 1))]
    return next(name + suffix for suffix in suffixes if name + suffix not in taken)
