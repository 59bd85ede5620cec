"""A small z-buffer renderer for textured triangle meshes on the CPU: no compiler or display needed.

It draws supersampled images with box-filtered edges and the depth that belongs to them. Cameras are
OpenCV (x right, y down, z forward) with pixel centres at +0.5. Both sides of a triangle are drawn, so the
winding of a mesh does not matter. Triangles that cross the near plane are clipped as polygons, so that
floors and walls may reach behind the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from numba import njit
from numpy import ndarray

LIGHT_DIRECTIONS = np.array([[1, -1, 2], [-1, 1, 1], [0, 1, 1]], np.float32)
LIGHT_STRENGTHS = np.array([0.7, 0.35, 0.25], np.float32)
AMBIENT = 0.65
DIFFUSE = 0.8


@dataclass
class Mesh:
    """One textured or plainly coloured triangle mesh in world coordinates.

    Attributes:
        vertices: World positions, scene units.
        faces: Vertex indices of every triangle.
        shade: Light factor of every vertex, multiplies the colour; see `light_factor`. None = 1.
        uv: Texture coordinates, (0, 0) at the bottom left (OpenGL, OBJ), repeated outside [0, 1].
        texture: sRGB colours, row 0 on top. Needs `uv`.
        color: RGB in [0, 1], multiplies the texture.
    """

    vertices: Float32[ndarray, "n 3"]
    faces: Int32[ndarray, "m 3"]
    shade: Float32[ndarray, "n"] | None = None
    uv: Float32[ndarray, "n 2"] | None = None
    texture: UInt8[ndarray, "th tw 3"] | None = None
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError when indices or shapes disagree."""
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
    """Area-weighted unit normals, pointing to the side from which the faces look counter-clockwise."""
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
    """Ambient plus Lambertian light of a few directional lamps in a z-up world.

    Args:
        normals: Of any length; normalised here.
        directions: Towards the lamps, of any length.
        strengths: Of every lamp.
    """
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return (AMBIENT + DIFFUSE * np.maximum(normals @ directions.T, 0) @ strengths).astype(np.float32)


def render(
    meshes: Sequence[Mesh],
    c2w: ndarray,
    intrinsics: ndarray,
    height: int,
    width: int,
    supersample: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
    near: float = 0.01,
) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
    """Draws meshes into one camera.

    Args:
        meshes: Everything in the scene, in any order.
        c2w: Camera-to-world `4 4`, OpenCV axes, rigid.
        intrinsics: `3 3` in pixels of the result, pixel centres at +0.5, no skew.
        height: Of the result, pixels.
        width: Of the result, pixels.
        supersample: Samples a pixel along each axis; colour is their mean.
        background: RGB 0..255 where nothing is hit.
        near: Distance of the near plane, scene units.

    Returns:
        Colour, and planar z at the pixel centre in scene units (0 = background). Where the samples around a
        centre lie on different surfaces, z is that of one of them, never a mean across the gap.
    """
    canvas = draw(meshes, c2w, intrinsics, height, width, supersample, background, near)
    return canvas.resolve()


@dataclass
class Canvas:
    """Supersampled colour and inverse depth, to be drawn on.

    Attributes:
        colors: In [0, 1].
        inverse_depth: 1/z, 0 where nothing is hit.
        supersample: Samples a pixel along each axis.
    """

    colors: Float32[ndarray, "sh sw 3"]
    inverse_depth: Float32[ndarray, "sh sw"]
    supersample: int

    def copy(self) -> Canvas:
        """Another canvas with the same content."""
        return Canvas(self.colors.copy(), self.inverse_depth.copy(), self.supersample)

    def resolve(self) -> tuple[UInt8[ndarray, "h w 3"], Float32[ndarray, "h w"]]:
        """Colour and planar z of every pixel, see `render`."""
        return (
            _average_colors(self.colors, self.supersample),
            _centre_depth(self.inverse_depth, self.supersample),
        )


def draw(
    meshes: Sequence[Mesh],
    c2w: ndarray,
    intrinsics: ndarray,
    height: int,
    width: int,
    supersample: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
    near: float = 0.01,
    onto: Canvas | None = None,
) -> Canvas:
    """As `render`, before pixels are averaged.

    Args:
        meshes: Everything in the scene, in any order.
        c2w: Camera-to-world, see `render`.
        intrinsics: See `render`.
        height: Of the result, pixels.
        width: Of the result, pixels.
        supersample: Samples a pixel along each axis.
        background: RGB 0..255 where nothing is hit.
        near: Distance of the near plane, scene units.
        onto: What was already drawn from this camera, for example what stands still; changed in place.
    """
    if supersample < 1:
        raise ValueError(f"supersample must be at least 1, got {supersample}")
    if onto is None:
        shape = (height * supersample, width * supersample)
        onto = Canvas(
            _canvas(*shape, np.asarray(background, np.float32) / 255),
            np.zeros(shape, np.float32),
            supersample,
        )
    c2w = np.asarray(c2w, np.float64)
    k = np.asarray(intrinsics, np.float64) * supersample
    lens = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    for mesh in meshes:
        if len(mesh.faces):
            attributes, faces, texture, color = _prepare(mesh, c2w)
            _draw(attributes, faces, texture, color, lens, near, onto.colors, onto.inverse_depth)
    return onto


def _prepare(mesh: Mesh, c2w: ndarray) -> tuple:
    """Camera-space vertices with u, v and shade as `n 6`, faces, texture (1x1 white if none), colour."""
    attributes = np.ones((len(mesh.vertices), 6))
    attributes[:, :3] = (mesh.vertices - c2w[:3, 3]) @ c2w[:3, :3]
    attributes[:, 3:5] = 0 if mesh.uv is None else mesh.uv
    attributes[:, 5] = 1 if mesh.shade is None else mesh.shade
    texture = (
        np.full((1, 1, 3), 255, np.uint8) if mesh.texture is None else np.ascontiguousarray(mesh.texture)
    )
    faces = np.ascontiguousarray(mesh.faces, np.int32)
    return attributes, faces, texture, np.asarray(mesh.color, np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _canvas(height, width, color):
    """A `height width 3` image of one colour; NumPy's broadcast assignment is many times slower."""
    image = np.empty((height, width, 3), np.float32)
    for y in range(height):
        for x in range(width):
            for k in range(3):
                image[y, x, k] = color[k]
    return image


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(attributes, faces, texture, color, lens, near, colors, inverse_depth):
    """Clips every triangle at the near plane and draws the fan of what remains."""
    polygon = np.empty((4, 6))
    for face in range(faces.shape[0]):
        corners = _clip_near(attributes, faces[face], near, polygon)
        for last in range(2, corners):
            _draw_triangle(
                polygon[0], polygon[last - 1], polygon[last], texture, color, lens, colors, inverse_depth
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _clip_near(attributes, face, near, polygon):
    """Sutherland-Hodgman against z = near; writes the corners to `polygon`, returns their number."""
    count = 0
    for corner in range(3):
        here = attributes[face[corner]]
        following = attributes[face[(corner + 1) % 3]]
        if here[2] >= near:
            polygon[count] = here
            count += 1
        if (here[2] >= near) != (following[2] >= near):
            weight = (near - here[2]) / (following[2] - here[2])
            for k in range(6):
                polygon[count, k] = here[k] + weight * (following[k] - here[k])
            polygon[count, 2] = near
            count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _pixel_range(low, high, size):
    """Indices first..last of the samples whose centres may lie in [low, high], clamped to the image."""
    first = 0 if low <= 0.5 else (size if low >= size else int(np.ceil(low - 0.5)))
    last = size - 1 if high >= size else (-1 if high <= 0 else int(np.floor(high - 0.5)))
    return first, last


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_triangle(a, b, c, texture, color, lens, colors, inverse_depth):
    """Edge functions in double precision; 1/z, u/z, v/z and shade/z are linear on the screen."""
    fx, fy, cx, cy = lens
    za, zb, zc = 1 / a[2], 1 / b[2], 1 / c[2]
    xa, xb, xc = fx * a[0] * za + cx, fx * b[0] * zb + cx, fx * c[0] * zc + cx
    ya, yb, yc = fy * a[1] * za + cy, fy * b[1] * zb + cy, fy * c[1] * zc + cy
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    if abs(area) < 1e-12:
        return
    step_bx, step_by = (yc - ya) / area, (xa - xc) / area
    step_cx, step_cy = (ya - yb) / area, (xb - xa) / area
    first_x, last_x = _pixel_range(min(xa, xb, xc), max(xa, xb, xc), colors.shape[1])
    first_y, last_y = _pixel_range(min(ya, yb, yc), max(ya, yb, yc), colors.shape[0])
    for y in range(first_y, last_y + 1):
        dy = y + 0.5 - ya
        for x in range(first_x, last_x + 1):
            dx = x + 0.5 - xa
            weight_b = dx * step_bx + dy * step_by
            weight_c = dx * step_cx + dy * step_cy
            weight_a = 1 - weight_b - weight_c
            if weight_a < -1e-9 or weight_b < -1e-9 or weight_c < -1e-9:
                continue
            inverse = weight_a * za + weight_b * zb + weight_c * zc
            if inverse <= inverse_depth[y, x]:
                continue
            inverse_depth[y, x] = inverse
            weight_a *= za / inverse
            weight_b *= zb / inverse
            weight_c *= zc / inverse
            u = weight_a * a[3] + weight_b * b[3] + weight_c * c[3]
            v = weight_a * a[4] + weight_b * b[4] + weight_c * c[4]
            shade = weight_a * a[5] + weight_b * b[5] + weight_c * c[5]
            _shade_sample(texture, u, v, shade, color, colors[y, x])


@njit(cache=True, nogil=True, error_model="numpy")
def _shade_sample(texture, u, v, shade, color, out):
    """Bilinear texture lookup with repetition, times colour and light, cut at 1."""
    rows, columns = texture.shape[0], texture.shape[1]
    column = (u - np.floor(u)) * columns - 0.5
    row = (1 - (v - np.floor(v))) * rows - 0.5
    left, top = int(np.floor(column)), int(np.floor(row))
    right_weight, bottom_weight = column - left, row - top
    x0, x1 = left if left >= 0 else columns - 1, left + 1 if left + 1 < columns else 0
    y0, y1 = top if top >= 0 else rows - 1, top + 1 if top + 1 < rows else 0
    for k in range(3):
        upper = texture[y0, x0, k] * (1 - right_weight) + texture[y0, x1, k] * right_weight
        lower = texture[y1, x0, k] * (1 - right_weight) + texture[y1, x1, k] * right_weight
        value = (upper * (1 - bottom_weight) + lower * bottom_weight) / 255
        out[k] = min(1.0, value * color[k] * shade)


@njit(cache=True, nogil=True, error_model="numpy")
def _average_colors(colors, supersample):
    """Box filter; float `sh sw 3` in [0, 1] -> uint8 `h w 3`."""
    height, width = colors.shape[0] // supersample, colors.shape[1] // supersample
    image = np.empty((height, width, 3), np.uint8)
    scale = 255 / (supersample * supersample)
    for y in range(height):
        for x in range(width):
            for k in range(3):
                total = 0.0
                for row in range(y * supersample, (y + 1) * supersample):
                    for column in range(x * supersample, (x + 1) * supersample):
                        total += colors[row, column, k]
                image[y, x, k] = np.uint8(total * scale + 0.5)
    return image


@njit(cache=True, nogil=True, error_model="numpy")
def _centre_depth(inverse_depth, supersample):
    """1/z is linear on a plane: the mean of the samples around the centre is exact unless they span a gap."""
    height, width = inverse_depth.shape[0] // supersample, inverse_depth.shape[1] // supersample
    depth = np.zeros((height, width), np.float32)
    low, high = (supersample - 1) // 2, supersample // 2
    for y in range(height):
        for x in range(width):
            top, left = y * supersample, x * supersample
            a, b = inverse_depth[top + low, left + low], inverse_depth[top + low, left + high]
            c, d = inverse_depth[top + high, left + low], inverse_depth[top + high, left + high]
            nearest, farthest = max(a, b, c, d), min(a, b, c, d)
            chosen = (a + b + c + d) / 4
            if farthest <= 0.85 * nearest:  # a gap: the second nearest of the four
                chosen = max(min(a, b), min(c, d), min(max(a, b), max(c, d)))
            if chosen > 0:
                depth[y, x] = 1 / chosen
    return depth
