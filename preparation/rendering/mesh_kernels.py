"""The inner loops of the mesh renderer, compiled by numba: clipping, filling triangles, averaging samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from numba import njit
from numpy import ndarray

Lens = tuple[float, float, float, float]
Style = tuple[bool, float]
Texels = tuple[int, int, int, int, float, float]
# thresholds of ordered dithering, so that neighbouring samples differ as much as possible
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float64)


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
    attributes: Float[ndarray, "n 9"],
    faces: Int32[ndarray, "m 3"],
    texture: UInt8[ndarray, "th tw c"],
    color: Float32[ndarray, "4"],
    style: Style,
    lens: Lens,
    near: float,
    colors: Float32[ndarray, "sh sw 3"],
    inverse_depth: Float32[ndarray, "sh sw"],
) -> None:
    """Clips every triangle at the near plane and draws the remaining polygon as a fan of triangles.

    Args:
        attributes: Position in camera space, u, v, and shade and opacity (RGBA) of every vertex.
        faces: Vertex indices of every triangle.
        texture: Colours 0..255, and opacity if it has four channels, row 0 on top.
        color: RGB and opacity in [0, 1], which multiply the texture.
        style: Whether only the front is drawn, and the least opacity, see `Mesh`; below -1 all is opaque.
        lens: Focal lengths and principal point in samples: fx, fy, cx, cy.
        near: Distance of the near plane.
        colors: Colour in [0, 1]; it is drawn on.
        inverse_depth: 1/z, 0 where nothing is hit; it is drawn on.
    """
    polygon = np.empty((4, 9))
    for face in range(faces.shape[0]):
        corners = _clip_near(attributes, faces[face], near, polygon)
        for last in range(2, corners):
            _draw_triangle(
                polygon[0],
                polygon[last - 1],
                polygon[last],
                texture,
                color,
                style,
                lens,
                colors,
                inverse_depth,
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _clip_near(
    attributes: Float[ndarray, "n 9"], face: Int32[ndarray, "3"], near: float, polygon: Float[ndarray, "4 9"]
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
            for k in range(9):
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
    a: Float[ndarray, "9"],
    b: Float[ndarray, "9"],
    c: Float[ndarray, "9"],
    texture: UInt8[ndarray, "th tw c"],
    color: Float32[ndarray, "4"],
    style: Style,
    lens: Lens,
    colors: Float32[ndarray, "sh sw 3"],
    inverse_depth: Float32[ndarray, "sh sw"],
) -> None:
    """Evaluates edge functions in double precision; what is divided by z is linear on the screen."""
    fx, fy, cx, cy = lens
    za, zb, zc = 1 / a[2], 1 / b[2], 1 / c[2]
    xa, xb, xc = fx * a[0] * za + cx, fx * b[0] * zb + cx, fx * c[0] * zc + cx
    ya, yb, yc = fy * a[1] * za + cy, fy * b[1] * zb + cy, fy * c[1] * zc + cy
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    front_only, cutout = style
    if abs(area) < 1e-12 or (front_only and area > 0):  # y points down, so the front has a negative area
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
            weight_a *= za / inverse
            weight_b *= zb / inverse
            weight_c *= zc / inverse
            u = weight_a * a[3] + weight_b * b[3] + weight_c * c[3]
            v = weight_a * a[4] + weight_b * b[4] + weight_c * c[4]
            place = _texels(texture, u, v)
            if cutout > -1.5:
                opacity = color[3] * (weight_a * a[8] + weight_b * b[8] + weight_c * c[8])
                if texture.shape[2] == 4:
                    opacity *= _texel(texture, place, 3) / 255
                if opacity < (
                    cutout if cutout >= 0 else (BAYER[y % BAYER.shape[0], x % BAYER.shape[1]] + 0.5) / 16
                ):
                    continue
            inverse_depth[y, x] = inverse
            for k in range(3):
                shade = weight_a * a[5 + k] + weight_b * b[5 + k] + weight_c * c[5 + k]
                colors[y, x, k] = min(1.0, _texel(texture, place, k) / 255 * color[k] * shade)


@njit(cache=True, nogil=True, error_model="numpy")
def _texels(texture: UInt8[ndarray, "th tw c"], u: float, v: float) -> Texels:
    """Finds the four texels around a place of a repeated texture, and how near the place is to the later ones."""
    rows, columns = texture.shape[0], texture.shape[1]
    column = (u - np.floor(u)) * columns - 0.5
    row = (1 - (v - np.floor(v))) * rows - 0.5
    left, top = int(np.floor(column)), int(np.floor(row))
    x0, x1 = left if left >= 0 else columns - 1, left + 1 if left + 1 < columns else 0
    y0, y1 = top if top >= 0 else rows - 1, top + 1 if top + 1 < rows else 0
    return x0, x1, y0, y1, column - left, row - top


@njit(cache=True, nogil=True, error_model="numpy")
def _texel(texture: UInt8[ndarray, "th tw c"], place: Texels, k: int) -> float:
    """Interpolates one channel bilinearly, 0..255."""
    x0, x1, y0, y1, right_weight, bottom_weight = place
    upper = texture[y0, x0, k] * (1 - right_weight) + texture[y0, x1, k] * right_weight
    lower = texture[y1, x0, k] * (1 - right_weight) + texture[y1, x1, k] * right_weight
    return upper * (1 - bottom_weight) + lower * bottom_weight


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
