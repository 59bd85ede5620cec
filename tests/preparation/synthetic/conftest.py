"""A miniature furniture catalogue and texture folders in the real formats, written on the fly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROPERTIES = """# PluginFurnitureCatalog.properties
license=Creative Commons Attribution 3.0 license
"""

MODEL = """
id#{k}=Test#{name}
name#{k}={label}
category#{k}={category}
icon#{k}=/mini/{name}.png
model#{k}=/mini/{name}/{name}.obj
doorOrWindow#{k}={door}
creator#{k}=Jane
"""

# a box with edges 2, 1 (up) and 1 whose texture is red above and green below
OBJ = """mtllib {name}.mtl
v -1 0 -0.5
v 1 0 -0.5
v 1 0 0.5
v -1 0 0.5
v -1 1 -0.5
v 1 1 -0.5
v 1 1 0.5
v -1 1 0.5
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl paint
f 1/1 2/2 3/3 4/4
f 5/1 8/2 7/3 6/4
f 1/1 5/4 6/3 2/2
f 2/1 6/4 7/3 3/2
f 3/1 7/4 8/3 4/2
f 4/1 8/4 5/3 1/2
"""

LABELS = ["Armchair", "Lamp", "Table 2", "Sofa", "Desk", "Bed", "Vase", "Box"]


def write_model(folder: Path, name: str, color: tuple[int, int, int]) -> None:
    """OBJ, MTL and PNG of one model; the picture's upper half is red, its lower half `color`."""
    folder.mkdir(parents=True)
    (folder / f"{name}.obj").write_text(OBJ.format(name=name))
    (folder / f"{name}.mtl").write_text(f"newmtl paint\nKd 1 1 1\nmap_Kd {name}.png\n")
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4], picture[4:] = (255, 0, 0), color
    Image.fromarray(picture).save(folder / f"{name}.png")


@pytest.fixture
def furniture_root(tmp_path: Path) -> Path:
    """One catalogue with a model for every label, a door, and `lamp7` of the lamp's family."""
    catalogue = tmp_path / "furniture" / "Mini"
    names = [label.split()[0].lower() for label in LABELS] + ["lamp7", "door"]
    text = PROPERTIES
    for k, name in enumerate(names):
        write_model(catalogue / "mini" / name, name, (0, 20 * k + 10, 255 - 20 * k))
        label = LABELS[k] if k < len(LABELS) else name.capitalize()
        door = "true" if name == "door" else "false"
        text += MODEL.format(k=k + 1, name=name, label=label, category="Office", door=door)
    (catalogue / "PluginFurnitureCatalog.properties").write_text(text)
    return tmp_path / "furniture"


@pytest.fixture
def texture_root(tmp_path: Path) -> Path:
    """Six families of two noisy pictures, a plain one and an animated water surface."""
    root = tmp_path / "meadow" / "textures"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("grass", "rock", "sand", "brick", "soil", "moss"):
        for variant in "ab":
            noise = rng.integers(40, 200, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / f"{name}1{variant}.bmp")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(root / "plain.png")
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / "water_001.png")
    return root
