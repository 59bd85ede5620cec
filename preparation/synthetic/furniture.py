"""Furniture catalogues of Sweet Home 3D (`.sh3f`, unzipped): textured OBJ models with their licences, split.

Every catalogue is a folder with `PluginFurnitureCatalog.properties` beside the models it names:

    unzip -d furniture/Scopia Scopia.sh3f
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from preparation.rendering.parts import Part
from preparation.synthetic.content_split import content_groups, content_hash, family, select_split
from preparation.synthetic.models import MOST_FACES, Model, largest_side, thin_hull
from scene4d.folders import listed, listed_below

logger = logging.getLogger(__name__)

CATALOGUE_FILE = "PluginFurnitureCatalog.properties"
LARGEST_FILE = 2_500_000
TEXTURE_SIZE = 128
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tga"}
# y up, as models are stored -> z up
UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of a catalogue.

    Attributes:
        name: Unique name of catalogue folder and model, such as `Scopia/little_lamp3`.
        label: English noun in lower case, such as `lamp`.
        path: The OBJ file.
        rotation: Row-major 3x3 matrix that turns the stored model upright (y up).
        license: SPDX identifier of its catalogue.
        author: Author named in its catalogue.
    """

    name: str
    label: str
    path: Path
    rotation: tuple[float, ...]
    license: str
    author: str

    @property
    def attribution(self) -> str:
        """A line that satisfies CC-BY."""
        return f"{self.label} ({self.name}) by {self.author}, {self.license}"

    def load(self) -> Model:
        """Reads the model, see `load_model`."""
        return load_model(self)


def read_catalogues(root: Path) -> list[CatalogueEntry]:
    """Finds all models below `root` that stand freely (no doors, windows, stairs) and are not too large.

    Raises:
        ValueError: There is no catalogue below `root`.
    """
    files = sorted(listed_below(root, [CATALOGUE_FILE]))
    if not files:
        raise ValueError(f"{root} holds no {CATALOGUE_FILE}; unzip the .sh3f catalogues into it")
    entries = [entry for file in files for entry in _read_catalogue(file)]
    logger.info("%d usable models in %d catalogues below %s", len(entries), len(files), root)
    return entries


def furniture_of_split(entries: Sequence[CatalogueEntry], split: str) -> list[CatalogueEntry]:
    """Returns the models of one split; those of one family, or with a mesh or texture in common, stay together."""
    by_name = {entry.name: entry for entry in entries}
    groups = content_groups({name: _traits(entry) for name, entry in by_name.items()})
    return [by_name[name] for name in select_split(groups, split)]


def load_model(entry: CatalogueEntry) -> Model:
    """Reads, turns upright and normalises one model.

    Raises:
        ValueError: The model is unreadable or flat, or has too many faces; names it.
    """
    if entry.path.read_bytes().count(b"\nf ") > MOST_FACES:  # polygons; far cheaper to count than to parse
        raise ValueError(f"{entry.name} has more than {MOST_FACES} faces")
    try:
        scene = trimesh.load_scene(entry.path, process=False)
        pieces = [g for g in scene.geometry.values() if isinstance(g, trimesh.Trimesh) and len(g.faces)]
    except Exception as error:  # trimesh and Pillow raise many types; one clear line for all of them
        raise ValueError(f"{entry.name} cannot be read: {error}") from error
    faces = sum(len(piece.faces) for piece in pieces)
    if not 0 < faces <= MOST_FACES:
        raise ValueError(f"{entry.name} has {faces} faces, allowed are 1..{MOST_FACES}")
    upright = UPRIGHT @ np.asarray(entry.rotation, np.float32).reshape(3, 3)
    corners = np.concatenate(
        [np.asarray(piece.vertices, np.float32)[piece.faces.ravel()] for piece in pieces]
    )
    corners = corners @ upright.T
    low, high = corners.min(0), corners.max(0)
    size = largest_side(entry.name, high - low)
    parts = tuple(_part(piece, upright, (low + high) / 2, size) for piece in pieces)
    return Model(entry, parts, (high - low) / size, thin_hull((corners - (low + high) / 2) / size))


def _read_catalogue(file: Path) -> list[CatalogueEntry]:
    """Parses Java properties: `model#3=/scopia/lamp/lamp.obj` and its neighbours with the same number."""
    values: dict[str, str] = {}
    for line in file.read_text("latin-1").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values[key.strip()] = value.strip()
    spdx = _license(values.get("license", ""))
    entries = []
    for number in sorted(int(k.split("#")[1]) for k in values if k.startswith("model#")):
        path = file.parent / values[f"model#{number}"].lstrip("/")
        stairs = values.get(f"category#{number}") == "Staircases"
        if stairs or values.get(f"doorOrWindow#{number}") == "true" or not path.is_file():
            continue
        if path.suffix.lower() != ".obj" or path.stat().st_size > LARGEST_FILE:
            continue
        turn = values.get(f"modelRotation#{number}", "1 0 0 0 1 0 0 0 1").split()
        entries.append(
            CatalogueEntry(
                name=f"{file.parent.name}/{path.stem}",
                label=re.sub(r"\s*\d[\d:x. ]*$", "", values.get(f"name#{number}", path.stem)).lower(),
                path=path,
                rotation=tuple(float(x) for x in turn),
                license=spdx,
                author=values.get(f"creator#{number}", file.parent.name),
            )
        )
    return list({entry.name: entry for entry in entries}.values())


def _license(text: str) -> str:
    if "Public domain" in text:
        return "CC0-1.0"
    return "CC-BY-3.0-US" if "United States" in text else "CC-BY-3.0"


def _traits(entry: CatalogueEntry) -> set[str]:
    """Returns the traits of a model: family name, mesh and textures."""
    images = listed(entry.path.parent, IMAGE_SUFFIXES)
    return {family(entry.path.stem).lower(), content_hash(entry.path), *(content_hash(p) for p in images)}


def _part(piece: trimesh.Trimesh, upright: ndarray, centre: ndarray, size: float) -> Part:
    vertices = (np.asarray(piece.vertices, np.float32) @ upright.T - centre) / size
    faces = np.asarray(piece.faces, np.int32)
    material = getattr(piece.visual, "material", None)
    uv = getattr(piece.visual, "uv", None)
    picture = getattr(material, "image", None)
    mapped = picture is not None and uv is not None and np.isfinite(uv).all()
    texture = _shrink(picture) if picture is not None and mapped else None
    color = np.asarray(getattr(material, "diffuse", (200, 200, 200)), np.float32)[:3] / 255
    return Part(
        vertices=vertices,
        normals=np.asarray(piece.vertex_normals, np.float32) @ upright.T,
        faces=faces,
        uv=None if texture is None else np.asarray(uv, np.float32),
        texture=texture,
        color=(float(color[0]), float(color[1]), float(color[2])) if texture is None else (1.0, 1.0, 1.0),
    )


def _shrink(picture: Image.Image) -> UInt8[ndarray, "th tw 3"]:
    """Shrinks a picture to at most `TEXTURE_SIZE`; the samples of a small render cannot show more."""
    picture = picture.convert("RGB")
    picture.thumbnail((TEXTURE_SIZE, TEXTURE_SIZE))
    return np.asarray(picture)
