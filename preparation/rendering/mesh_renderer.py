"""A small z-buffer renderer for textured triangle meshes on the CPU, which needs neither a compiler nor a display.

It draws supersampled images with box-filtered edges and the depth that belongs to them. Cameras are
OpenCV (x right, y down, z forward) with pixel centres at +0.5. Both sides of a triangle are drawn, so the
winding of a mesh does not matter unless it asks for its front only. Triangles that cross the near plane are
clipped as polygons, so that floors and walls may reach behind the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray

from preparation.rendering.mesh_kernels import average_colors, centre_depth, draw_faces, fill_canvas

LIGHT_DIRECTIONS = np.array([[1, -1, 2], [-1, 1, 1], [0, 1, 1]], np.float32)
LIGHT_STRENGTHS = np.array([0.7, 0.35, 0.25], np.float32)
AMBIENT = 0.65
DIFFUSE = 0.8
COVERAGE = -1.0  # see `Mesh.cutout`
OPAQUE = -2.0


@dataclass
class Mesh:
    """One textured or plainly coloured triangle mesh in world coordinates.

    Attributes:
        vertices: World positions, scene units.
        faces: Vertex indices of every triangle.
        shade: Light factor of every vertex, which multiplies the colour; see `light_factor`. It has one channel, or
            four: RGB with the colour of the vertex, and opacity. None stands for 1.
        uv: Texture coordinates, (0, 0) at the bottom left (OpenGL, OBJ), repeated outside [0, 1].
        texture: sRGB colours, and opacity if it has a fourth channel, row 0 on top. It needs `uv`.
        color: RGB in [0, 1], which multiplies the texture.
        opacity: Multiplies the opacity of the texture and the vertices.
        cutout: How opacity is drawn. None draws all as opaque. A number of [0, 1] draws samples of at least this
            opacity. `COVERAGE` draws as large a share of the 16 samples of a 4x4 square as the opacity says, so
            that pixels blend in whatever order meshes come, and depth is that of one of the surfaces.
        front_only: Whether only faces are drawn whose corners are seen counter-clockwise.
    """

    vertices: Float32[ndarray, "n 3"]
    faces: Int32[ndarray, "m 3"]
    shade: Float32[ndarray, "n"] | Float32[ndarray, "n 4"] | None = None
    uv: Float32[ndarray, "n 2"] | None = None
    texture: UInt8[ndarray, "th tw c"] | None = None
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    opacity: float = 1.0
    cutout: float | None = None
    front_only: bool = False

    def __post_init__(self) -> None:
        """Checks that indices and shapes agree.

        Raises:
            ValueError: They do not; names the value.
        """
        n = len(self.vertices)
        if len(self.faces) and not (0 <= self.faces.min() and self.faces.max() < n):
            raise ValueError(f"faces index {self.faces.min()}..{self.faces.max()}, the mesh has {n} vertices")
        for name, value in (("shade", self.shade), ("uv", self.uv)):
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries, the mesh has {n} vertices")
        if self.texture is not None and self.uv is None:
            raise ValueError("a mesh with a texture needs uv coordinates")


def vertex_normals(
    vertices: Float32[ndarray, "n 3"], faces: Int32[ndarray, "m 3"]
) -> Float32[ndarray, "n 3"]:
    """Returns area-weighted unit normals, which point to the side from which faces look counter-clockwise."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12).astype(np.float32)


def light_factor(
    normals: Float32[ndarray, "n 3"],
    directions: Float32[ndarray, "k 3"] = LIGHT_DIRECTIONS,
    strengths: Float32[ndarray, "k"] = LIGHT_STRENGTHS,
) -> Float32[ndarray, "n"]:
    """Adds ambient light and Lambertian light of a few directional lamps in a z-up world.

    Args:
        normals: Normals of any length; they are normalised here.
        directions: Directions towards the lamps, of any length.
        strengths: Strength of every lamp.
    """
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return (AMBIENT + DIFFUSE * np.maximum(normals @ directions.T, 0) @ strengths).astype(np.float32)


def render(
    meshes: Sequence[Mesh],
    c2w: Float[ndarray, "4 4"],
    intrinsics: Float[ndarray, "3 3"],
    height: int,
    width: int,
    supersample: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
    near: float = 0.01,
) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
    """Draws meshes into one camera.

    Args:
        meshes: Everything in the scene, in any order.
        c2w: Rigid camera-to-world matrix, OpenCV axes.
        intrinsics: Intrinsics in pixels of the result, pixel centres at +0.5, no skew.
        height: Height of the result, pixels.
        width: Width of the result, pixels.
        supersample: Samples per pixel along each axis; colour is their mean.
        background: RGB 0..255 where nothing is hit.
        near: Distance of the near plane, scene units.

    Returns:
        Colour, and planar z at the pixel centre in scene units (0 = background). Where the samples around a
        centre lie on different surfaces, z is that of one of them, never a mean across the gap.
    """
    return draw(meshes, c2w, intrinsics, height, width, supersample, background, near).resolve()


@dataclass
class Canvas:
    """Supersampled colour and inverse depth that are drawn on.

    Attributes:
        colors: Colour in [0, 1].
        inverse_depth: 1/z, 0 where nothing is hit.
        supersample: Samples per pixel along each axis.
    """

    colors: Float32[ndarray, "sh sw 3"]
    inverse_depth: Float32[ndarray, "sh sw"]
    supersample: int

    def copy(self) -> Canvas:
        """Returns another canvas with the same content."""
        return Canvas(self.colors.copy(), self.inverse_depth.copy(), self.supersample)

    def resolve(self) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
        """Returns colour and planar z of every pixel, see `render`."""
        return average_colors(self.colors, self.supersample), centre_depth(
            self.inverse_depth, self.supersample
        )


def draw(
    meshes: Sequence[Mesh],
    c2w: Float[ndarray, "4 4"],
    intrinsics: Float[ndarray, "3 3"],
    height: int,
    width: int,
    supersample: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
    near: float = 0.01,
    onto: Canvas | None = None,
) -> Canvas:
    """Draws like `render`, and stops before pixels are averaged.

    Args:
        meshes: Everything in the scene, in any order.
        c2w: Camera-to-world matrix, see `render`.
        intrinsics: Intrinsics, see `render`.
        height: Height of the result, pixels.
        width: Width of the result, pixels.
        supersample: Samples per pixel along each axis.
        background: RGB 0..255 where nothing is hit.
        near: Distance of the near plane, scene units.
        onto: Canvas that already shows a part of the scene from this camera; it is changed in place.

    Raises:
        ValueError: `supersample` is below 1.
    """
    if supersample < 1:
        raise ValueError(f"supersample must be at least 1, got {supersample}")
    if onto is None:
        shape = (height * supersample, width * supersample)
        onto = Canvas(
            fill_canvas(*shape, np.asarray(background, np.float32) / 255),
            np.zeros(shape, np.float32),
            supersample,
        )
    c2w = np.asarray(c2w, np.float64)
    k = np.asarray(intrinsics, np.float64) * supersample
    lens = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    for mesh in meshes:
        if len(mesh.faces):
            attributes, faces, texture, color = _prepare(mesh, c2w)
            cutout = OPAQUE if mesh.cutout is None else mesh.cutout
            draw_faces(
                attributes, faces, texture, color, (mesh.front_only, cutout), lens, near, onto.colors,
                onto.inverse_depth,
            )  # fmt: skip
    return onto


def _prepare(
    mesh: Mesh, c2w: Float[ndarray, "4 4"]
) -> tuple[Float[ndarray, "n 9"], Int32[ndarray, "m 3"], UInt8[ndarray, "th tw c"], Float32[ndarray, "4"]]:
    """Returns camera-space vertices with u, v and shade, faces, texture (1x1 white if there is none), and colour."""
    attributes = np.ones((len(mesh.vertices), 9))
    attributes[:, :3] = (mesh.vertices - c2w[:3, 3]) @ c2w[:3, :3]
    attributes[:, 3:5] = 0 if mesh.uv is None else mesh.uv
    if mesh.shade is not None and mesh.shade.ndim == 2:
        attributes[:, 5:] = mesh.shade
    elif mesh.shade is not None:
        attributes[:, 5:8] = mesh.shade[:, None]
    texture = (
        np.full((1, 1, 3), 255, np.uint8) if mesh.texture is None else np.ascontiguousarray(mesh.texture)
    )
    faces = np.ascontiguousarray(mesh.faces, np.int32)
    return attributes, faces, texture, np.array([*mesh.color, mesh.opacity], np.float32)
