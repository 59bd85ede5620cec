"""The inner loops of the mesh renderer, compiled by numba: clipping, filling triangles, averaging samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numba import njit
from numpy import ndarray

Lens = tuple[float, float, float, float]


@njit(cache=True, nogil=True, error_model="numpy")
def fill_canvas(height: int, width: int, color: Float32[ndarray, "3"]) -> Float32[ndarray, "h w 3"]:
    """Makes an image of one colour; the broadcast assignment of NumPy is many times slower."""
    image = np.empty((height, width, 3), np.float32)
    for y in range(height):
        for x in range(width):
            for k in range(3):
                image[y, x, k] = color[k]
    return image


@njit(cache=True, nogil=True, error_model="numpy")
def draw_faces(
    attributes: Float[ndarray, "n 6"],
    faces: Int32[ndarray, "m 3"],
    texture: UInt8[ndarray, "th tw 3"],
    color: Float32[ndarray, "3"],
    lens: Lens,
    near: float,
    colors: Float32[ndarray, "sh sw 3"],
    inverse_depth: Float32[ndarray, "sh sw"],
) -> None:
    """Clips every triangle at the near plane and draws the remaining polygon as a fan of triangles.

    Args:
        attributes: Position in camera space, u, v and shade of every vertex.
        faces: Vertex indices of every triangle.
        texture: Colours 0..255, row 0 on top.
        color: RGB in [0, 1], which multiplies the texture.
        lens: Focal lengths and principal point in samples: fx, fy, cx, cy.
        near: Distance of the near plane.
        colors: Colour in [0, 1]; it is drawn on.
        inverse_depth: 1/z, 0 where nothing is hit; it is drawn on.
    """
    polygon = np.empty((4, 6))
    for face in range(faces.shape[0]):
        corners = _clip_near(attributes, faces[face], near, polygon)
        for last in range(2, corners):
            _draw_triangle(
                polygon[0], polygon[last - 1], polygon[last], texture, color, lens, colors, inverse_depth
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _clip_near(
    attributes: Float[ndarray, "n 6"], face: Int32[ndarray, "3"], near: float, polygon: Float[ndarray, "4 6"]
) -> int:
    """Clips by Sutherland-Hodgman at z = near; writes the corners to `polygon` and returns their number."""
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
def _pixel_range(low: float, high: float, size: int) -> tuple[int, int]:
    """Returns the first and last sample whose centres may lie in [low, high], clamped to the image."""
    first = 0 if low <= 0.5 else (size if low >= size else int(np.ceil(low - 0.5)))
    last = size - 1 if high >= size else (-1 if high <= 0 else int(np.floor(high - 0.5)))
    return first, last


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_triangle(
    a: Float[ndarray, "6"],
    b: Float[ndarray, "6"],
    c: Float[ndarray, "6"],
    texture: UInt8[ndarray, "th tw 3"],
    color: Float32[ndarray, "3"],
    lens: Lens,
    colors: Float32[ndarray, "sh sw 3"],
    inverse_depth: Float32[ndarray, "sh sw"],
) -> None:
    """Evaluates edge functions in double precision; 1/z, u/z, v/z and shade/z are linear on the screen."""
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
def _shade_sample(
    texture: UInt8[ndarray, "th tw 3"],
    u: float,
    v: float,
    shade: float,
    color: Float32[ndarray, "3"],
    out: Float32[ndarray, "3"],
) -> None:
    """Looks a repeated texture up bilinearly, times colour and light, cut at 1."""
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
def average_colors(colors: Float32[ndarray, "sh sw 3"], supersample: int) -> UInt8[ndarray, "h w 3"]:
    """Averages samples in [0, 1] to pixels 0..255 with a box filter."""
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
def centre_depth(inverse_depth: Float32[ndarray, "sh sw"], supersample: int) -> Float32[ndarray, "h w"]:
    """Returns z at the centre of every pixel.

    1/z is linear on a plane, so the mean of the samples around the centre is exact unless they span a gap.
    """
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
