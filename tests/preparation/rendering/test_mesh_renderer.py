"""The mesh renderer against analytic projections."""

import numpy as np
import pytest

from preparation.rendering.mesh_renderer import Mesh, light_factor, render, vertex_normals

SIZE = 32
FOCAL = 40.0
INTRINSICS = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
QUAD_FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def quad(corners, **options) -> Mesh:
    return Mesh(np.array(corners, np.float32), QUAD_FACES, **options)


def pixel_centres() -> tuple[np.ndarray, np.ndarray]:
    """Ray x/z and y/z of every pixel centre, each `h w`."""
    ramp = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    return np.meshgrid(ramp, ramp)


def test_triangle_covers_the_pixels_whose_centres_project_into_it():
    corners = np.array([[-0.5, -0.5, 2], [0.6, -0.4, 3], [-0.2, 0.7, 2.5]], np.float32)
    triangle = Mesh(corners, np.array([[0, 1, 2]], np.int32), color=(1, 0, 0))
    image, depth = render([triangle], np.eye(4), INTRINSICS, SIZE, SIZE, supersample=1)
    x, y = pixel_centres()
    rays = np.stack([x, y, np.ones_like(x)], -1)
    weights = np.linalg.solve(corners.T.astype(float), rays[..., None])[
        ..., 0
    ]  # ray = sum of weight * corner
    inside = (weights > 0).all(-1)
    assert 50 < inside.sum() < 500
    assert np.array_equal(depth > 0, inside)
    assert (image[inside] == [255, 0, 0]).all() and (image[~inside] == 255).all()
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    np.testing.assert_allclose(depth[inside], ((normal @ corners[0]) / (rays @ normal))[inside], rtol=1e-5)


@pytest.mark.parametrize("supersample", [1, 2, 3, 4])
def test_depth_is_planar_z_at_pixel_centres_for_any_supersampling(supersample):
    slanted = quad([[-9, -9, 2], [9, -9, 6], [9, 9, 6], [-9, 9, 2]])
    _, depth = render([slanted], np.eye(4), INTRINSICS, SIZE, SIZE, supersample)
    x, _ = pixel_centres()
    np.testing.assert_allclose(depth, 4 / (1 - 2 / 9 * x), rtol=1e-4)  # plane z = 4 + 2/9 X, X = x z


def test_ground_plane_behind_and_before_the_camera_is_clipped_exactly():
    ground = quad([[-90, 1.5, -90], [90, 1.5, -90], [90, 1.5, 90], [-90, 1.5, 90]], color=(0, 0, 0))
    image, depth = render([ground], np.eye(4), INTRINSICS, SIZE, SIZE, supersample=1)
    _, y = pixel_centres()
    seen = y > 1.5 / 90
    assert np.array_equal(depth > 0, seen)
    assert (image[seen] == 0).all()
    np.testing.assert_allclose(depth[seen], 1.5 / y[seen], rtol=1e-5)


def test_nothing_behind_the_camera_is_drawn():
    behind = quad([[-1, -1, -2], [1, -1, -2], [1, 1, -2], [-1, 1, -2]])
    _, depth = render([behind], np.eye(4), INTRINSICS, SIZE, SIZE)
    assert not depth.any()


def test_texture_is_upright_and_perspective_correct():
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0], texture[0, 1], texture[1, 0] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # first corner = top left of the texture
    upright = quad([[-0.7, -0.7, 2], [0.7, -0.7, 2], [0.7, 0.7, 2], [-0.7, 0.7, 2]], uv=uv, texture=texture)
    image, _ = render([upright], np.eye(4), INTRINSICS, SIZE, SIZE, supersample=1)
    assert image[9, 9].argmax() == 0 and image[9, 22].argmax() == 1 and image[22, 9].argmax() == 2

    ramp = np.repeat(np.arange(0, 256, dtype=np.uint8)[None, :, None], 3, 2)
    slanted = quad([[-9, -9, 2], [9, -9, 6], [9, 9, 6], [-9, 9, 2]], uv=uv, texture=ramp)
    image, depth = render([slanted], np.eye(4), INTRINSICS, SIZE, SIZE, supersample=1)
    x, _ = pixel_centres()
    expected = (x * depth + 9) / 18 * 256 - 0.5
    np.testing.assert_allclose(image[..., 0], expected, atol=1)


def test_texture_repeats():
    texture = np.zeros((1, 2, 3), np.uint8)
    texture[0, 1] = 255
    corners = [[-0.8, -0.8, 2], [0.8, -0.8, 2], [0.8, 0.8, 2], [-0.8, 0.8, 2]]
    uv = np.array([[-1, 0], [1, 0], [1, 1], [-1, 1]], np.float32)
    image, _ = render([quad(corners, uv=uv, texture=texture)], np.eye(4), INTRINSICS, SIZE, SIZE)
    assert np.array_equal(image[:, :16], image[:, 16:])
    assert image[16, 12, 0] > 200 > 60 > image[16, 4, 0]


def test_nearer_surface_wins_in_any_order_and_edges_are_mixed():
    near = quad([[-0.4, -1, 2], [0.41, -1, 2], [0.41, 1, 2], [-0.4, 1, 2]], color=(0, 0, 0))
    far = quad([[-9, -9, 5], [9, -9, 5], [9, 9, 5], [-9, 9, 5]])
    image, depth = render([near, far], np.eye(4), INTRINSICS, SIZE, SIZE)
    other, other_depth = render([far, near], np.eye(4), INTRINSICS, SIZE, SIZE)
    assert np.array_equal(image, other) and np.array_equal(depth, other_depth)
    assert set(np.unique(depth)) == {2.0, 5.0}, "depth never lies between two surfaces"
    edge = image[
        16, 24, 0
    ]  # x = 0.41 projects to pixel 24.2: a fifth of pixel 24, that is one sample of four
    assert edge == round(255 * 3 / 4)


def test_camera_pose_is_camera_to_world():
    c2w = np.eye(4)
    c2w[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # looks along world x, up is world z
    c2w[:3, 3] = [1, 2, 3]
    left_and_up = quad([[5, 2.0, 3], [5, 2.5, 3], [5, 2.5, 3.5], [5, 2.0, 3.5]])
    _, depth = render([left_and_up], c2w, INTRINSICS, SIZE, SIZE)
    rows, columns = np.nonzero(depth)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (11, 15, 11, 15)
    np.testing.assert_allclose(depth[depth > 0], 4)


def test_two_views_agree_through_depth():
    """Depth of view a, unprojected and projected into view b, meets the depth of view b."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    vertices = np.stack([x, y, 3 + 0.2 * rng.random(x.shape)], -1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 10], 1), np.stack([corner, corner + 10, corner + 9], 1)]
    )
    surface = Mesh(vertices, faces.astype(np.int32))
    other = np.eye(4)
    other[:3, :3] = [[np.cos(0.1), 0, -np.sin(0.1)], [0, 1, 0], [np.sin(0.1), 0, np.cos(0.1)]]
    other[:3, 3] = [0.3, 0.05, 0]
    _, depth = render([surface], np.eye(4), INTRINSICS, SIZE, SIZE)
    _, other_depth = render([surface], other, INTRINSICS, SIZE, SIZE)
    ray_x, ray_y = pixel_centres()
    points = (np.stack([ray_x, ray_y, np.ones_like(ray_x)], -1) * depth[..., None])[depth > 0]
    turned = (points - other[:3, 3]) @ other[:3, :3]
    pixel = np.floor(turned[:, :2] / turned[:, 2:] * FOCAL + SIZE / 2).astype(int)
    inside = ((pixel >= 2) & (pixel < SIZE - 2)).all(1)
    found = other_depth[pixel[inside, 1], pixel[inside, 0]]
    hit = found > 0
    assert hit.mean() > 0.95
    assert np.abs(found / turned[inside, 2] - 1)[hit].max() < 0.02


def test_light_comes_from_above():
    up, down = light_factor(np.array([[0, 0, 2], [0, 0, -1]], np.float32))
    assert up > down > 0
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    np.testing.assert_allclose(vertex_normals(square, QUAD_FACES), [[0, 0, 1]] * 4)


def test_meshes_that_disagree_with_themselves_are_refused():
    corners = np.zeros((3, 3), np.float32)
    face = np.array([[0, 1, 2]], np.int32)
    with pytest.raises(ValueError, match="3 vertices"):
        Mesh(corners, face + 1)
    with pytest.raises(ValueError, match="shade has 2"):
        Mesh(corners, face, shade=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="needs uv"):
        Mesh(corners, face, texture=np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match="supersample"):
        render([], np.eye(4), INTRINSICS, SIZE, SIZE, supersample=0)
