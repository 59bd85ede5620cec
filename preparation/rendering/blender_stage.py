"""Animated glTF files in Blender, through `bpy`: importing, choosing a clip, posing, rendering.

The package bpy (GPL) pins numpy and the Python version, so it needs an environment of its own.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from preparation.rendering.gltf_file import Animation, GltfFile
from scene4d.pictures import open_picture

NOT_EXPORTED = "glTF_not_exported"  # the importer's collection for the shapes of bones
SUN, AMBIENT = 2.5, 0.7
FPS = 24  # of the timeline
FAR = 100.0  # times the size of the stage; everything farther is background


@dataclass(frozen=True)
class Clip:
    """One animation of a file, in frames of the timeline of Blender."""

    file: GltfFile
    animation: Animation

    @property
    def start(self) -> float:
        """Returns the frame of the first key."""
        return self.animation.start * FPS

    @property
    def end(self) -> float:
        """Returns the frame of the last key."""
        return self.animation.end * FPS


def load(path: Path) -> list[Clip]:
    """Lists the animations of a file by name.

    Raises:
        ValueError: The file is no GLB or has no animation; names it.
    """
    file = GltfFile(path)
    clips = [Clip(file, animation) for animation in file.animations()]
    if not clips:
        raise ValueError(f"{path}: has no animation")
    return clips


def play(clip: Clip) -> None:
    """Empties Blender and imports the default scene of a file with one animation only.

    Blender keeps what an animation has left behind. So nothing of the others is imported, and whatever this one has
    no key for is at rest.

    Raises:
        ValueError: The file cannot be imported; names it.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.scene.render.fps, bpy.context.scene.render.fps_base = FPS, 1.0
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "clip.glb"
        alone.write_bytes(clip.file.alone(clip.animation))
        try:
            bpy.ops.import_scene.gltf(filepath=str(alone), loglevel=50)
        except RuntimeError as error:
            raise ValueError(f"{clip.file.path}: expected a glTF file: {error}") from error
    hidden = bpy.data.collections.get(NOT_EXPORTED)
    for item in list(hidden.objects) if hidden else []:
        bpy.data.objects.remove(item)


def vertices(frame: float) -> Float[ndarray, "n 3"]:
    """Returns all vertices at a frame after skinning and morphing, in the world of Blender (z up).

    Raises:
        ValueError: The scene has no mesh.
    """
    _go_to(frame)
    graph, parts = bpy.context.evaluated_depsgraph_get(), []
    for item in (item for item in bpy.data.objects if item.type == "MESH"):
        posed = item.evaluated_get(graph)
        mesh = posed.to_mesh()
        local: ndarray = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", local)
        matrix = np.array(posed.matrix_world)
        parts.append(local.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
        posed.to_mesh_clear()
    if not parts or not sum(map(len, parts)):
        raise ValueError("has no mesh")
    return np.concatenate(parts)


def set_up(size: tuple[int, int], field_of_view: float, extent: float, engine: str, samples: int) -> None:
    """Sets up camera, lights, engine and outputs.

    Args:
        size: Height and width of the image.
        field_of_view: Horizontal field of view, radians.
        extent: Size of the stage in units of Blender, for the clipping planes.
        engine: CYCLES or BLENDER_WORKBENCH.
        samples: Samples per pixel of Cycles.
    """
    scene = bpy.context.scene
    scene.render.engine, scene.render.film_transparent = engine, True
    scene.render.resolution_y, scene.render.resolution_x = size
    scene.render.resolution_percentage, scene.render.threads_mode, scene.render.threads = 100, "FIXED", 1
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    scene.view_settings.view_transform = "Standard"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.seed = samples, False, 0
    scene.display.shading.color_type = "TEXTURE"
    _add_camera(field_of_view, extent)
    _add_lights()
    _add_depth_output()


def render(
    c2w: Float[ndarray, "4 4"], frame: float
) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
    """Renders the view of an OpenCV camera.

    Returns:
        The picture on white, and planar depth in units of Blender (0 = background).
    """
    from mathutils import Matrix

    scene = bpy.context.scene
    _go_to(frame)
    scene.camera.matrix_world = Matrix((c2w @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist())
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = f"{folder}/picture.png"
        scene.node_tree.nodes["depth"].base_path = folder
        bpy.ops.render.render(write_still=True)
        with open_picture(scene.render.filepath) as picture:
            white = Image.new("RGBA", picture.size, "white")
            image = np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))
        (path,) = Path(folder).glob("depth*.exr")
        depth = _read_depth(path)
    return image, np.where(depth < scene.camera.data.clip_end, depth, 0).astype(np.float32)


def _go_to(frame: float) -> None:
    bpy.context.scene.frame_set(math.floor(frame), subframe=frame - math.floor(frame))


def _add_camera(field_of_view: float, extent: float) -> None:
    for item in [item for item in bpy.data.objects if item.type in ("CAMERA", "LIGHT")]:
        bpy.data.objects.remove(item)
    data = bpy.data.cameras.new("camera")
    data.sensor_fit, data.angle = "HORIZONTAL", field_of_view
    data.clip_start, data.clip_end = 0.01 * extent, FAR * extent
    bpy.context.scene.camera = bpy.data.objects.new("camera", data)
    bpy.context.scene.collection.objects.link(bpy.context.scene.camera)


def _add_lights() -> None:
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = AMBIENT
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    bpy.context.scene.world = world
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy = SUN
    item = bpy.data.objects.new("sun", sun)
    item.rotation_euler = (0.6, 0.2, 0.5)
    bpy.context.scene.collection.objects.link(item)


def _add_depth_output() -> None:
    scene = bpy.context.scene
    bpy.context.view_layer.use_pass_z, scene.use_nodes = True, True
    tree = scene.node_tree
    tree.nodes.clear()
    layers, picture = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeComposite")
    output = tree.nodes.new("CompositorNodeOutputFile")
    output.name, output.format.file_format, output.format.color_depth = "depth", "OPEN_EXR", "32"
    output.file_slots[0].path = "depth"
    tree.links.new(layers.outputs["Image"], picture.inputs["Image"])
    tree.links.new(layers.outputs["Depth"], output.inputs[0])


def _read_depth(path: Path) -> Float32[ndarray, "h w"]:
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    values = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(values)
    bpy.data.images.remove(image)
    return values.reshape(height, width, -1)[::-1, :, 0]
