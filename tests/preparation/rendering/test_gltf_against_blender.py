"""Poses, silhouettes, depth and unlit colours of animated GLB files are those of Blender.

SCENE4D_GLB_FOLDER names a folder of files; without it a file that is written here is compared. Cycles sees both sides
of a face and takes one sample at the centre of each pixel, so both are asked of our own renderer too.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_glb import SmallGlb

bpy = pytest.importorskip("bpy")
from preparation.rendering import blender_stage  # noqa: E402
from preparation.rendering.gltf_file import GltfFile  # noqa: E402
from preparation.rendering.gltf_model import GltfModel  # noqa: E402
from preparation.rendering.mesh_renderer import render  # noqa: E402

pytestmark = pytest.mark.slow  # Blender renders
FOLDER = os.environ.get("SCENE4D_GLB_FOLDER", "")
SIZE, FIELD_OF_VIEW = 128, 0.7
FILES = sorted(Path(FOLDER).rglob("*.glb")) if FOLDER else [None]


def written(folder):
    glb = SmallGlb()
    glb.animate(
        "a",
        (0, "rotation", [0, 1], [[0, 0, 0, 1], [0, 0.0998, 0, 0.995]]),
        (0, "scale", [0, 1], [[1] * 3, [2] * 3]),
    )
    material = {"pbrMetallicRoughness": {"baseColorFactor": [0.2, 0.5, 0.05, 1]}}
    return glb.write(folder / "a.glb", [{"mesh": 0}], materials=[material], material=0)


def as_emission():
    """Every material shows its base colour without light."""
    for material in bpy.data.materials:
        tree = material.node_tree
        shader = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
        if shader is None:
            continue
        base, glow = shader.inputs["Base Color"], tree.nodes.new("ShaderNodeEmission")
        glow.inputs["Color"].default_value = base.default_value
        if base.is_linked:
            tree.links.new(base.links[0].from_socket, glow.inputs["Color"])
        output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
        tree.links.new(glow.outputs[0], output.inputs["Surface"])


def compared(path):
    """Figures of one instant in the middle of the longest animation."""
    clip = max(blender_stage.load(path), key=lambda clip: clip.end - clip.start)
    blender_stage.play(clip)
    as_emission()
    share = 0.37
    time = clip.animation.start + share * (clip.animation.end - clip.animation.start)
    (parts,) = GltfModel(GltfFile(path)).posed(clip.animation, np.array([time]))
    points = np.concatenate([part.vertices for part in parts])
    low, high = points.min(0), points.max(0)
    extent = float((high - low).max())
    blender_stage.set_up((SIZE, SIZE), FIELD_OF_VIEW, extent, "CYCLES", 1)
    bpy.context.scene.cycles.pixel_filter_type, bpy.context.scene.cycles.filter_width = "BOX", 0.01
    forward = np.array([-0.6, 0.7, -0.35])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.stack(
        [right, np.cross(forward, right), forward, (low + high) / 2 - 2.4 * extent * forward], 1
    )
    image, depth = blender_stage.render(c2w, time * blender_stage.FPS)
    focal = SIZE / 2 / np.tan(FIELD_OF_VIEW / 2)
    intrinsics = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    meshes = [mesh for part in parts for mesh in replace(part, lit=False, sides="any").meshes()]
    own_image, own_depth = render(meshes, c2w, intrinsics, SIZE, SIZE, supersample=1, near=0.01 * extent)
    seen, own_seen = depth > 0, own_depth > 0
    both = seen & own_seen
    apart = np.abs(depth - own_depth)[both] / extent
    colors = np.abs(image.astype(float) - own_image)[both].max(1)
    return {
        "pixels": int(both.sum()), "other silhouette": float((seen ^ own_seen).sum() / both.sum()),
        "depth median": float(np.median(apart)), "depth within 0.001": float((apart < 1e-3).mean()),
        "grey levels mean": float(colors.mean()), "colours within 3": float((colors <= 3).mean()),
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem if path else "written")
def test_silhouette_depth_and_colours_are_those_of_blender(path, tmp_path, record_property):
    found = compared(path or written(tmp_path))
    logging.getLogger(__name__).info("%s: %s", path, found)
    for name, value in found.items():
        record_property(name, value)
    assert found["pixels"] > 300 and found["other silhouette"] < 0.01, found
    assert found["depth median"] < 1e-4 and found["depth within 0.001"] > 0.99, found
    assert found["grey levels mean"] < 3 and found["colours within 3"] > 0.97, found
