"""Files with known triangles and colours."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from small_glb import TRIANGLE, SmallGlb

from preparation.rendering.gltf_arrays import GltfArrays
from preparation.rendering.gltf_file import GltfFile
from preparation.rendering.gltf_model import GltfModel
from preparation.rendering.mesh_renderer import COVERAGE, render

REST = np.zeros(1)


def parts_of(path):
    (parts,) = GltfModel(GltfFile(path)).posed(None, REST)
    return parts


def shown(path, size=8, **changes):
    """The middle of a picture from above (glTF's +y) that the file's triangles fill, as drawn."""
    c2w = np.diag([1.0, -1.0, -1.0, 1.0])  # looks down the z of the world
    c2w[:3, 3] = [0.2, -0.2, 5]
    k = np.array([[200.0, 0, size / 2], [0, 200, size / 2], [0, 0, 1]])
    return render([mesh for part in parts_of(path) for mesh in part.meshes()], c2w, k, size, size)


FLAT = np.array(
    [[-9, 0, -9], [-9, 0, 9], [9, 0, 9], [9, 0, -9]], np.float32
)  # seen from +y counter-clockwise
QUAD = [0, 1, 2, 0, 2, 3]


def quad(path, material=None, uv=None, colors=None, flip=False, **more):
    glb = SmallGlb(FLAT)
    attributes = {"NORMAL": glb.add([[0, -1 if flip else 1, 0]] * 4, "VEC3")}
    if uv is not None:
        attributes["TEXCOORD_0"] = glb.add(uv, "VEC2")
    if colors is not None:
        attributes["COLOR_0"] = glb.add(**colors)
    indices = glb.add(QUAD[::-1] if flip else QUAD, "SCALAR", np.uint16)
    if "picture" in more:
        more["images"] = [{"bufferView": glb.view(more.pop("picture")), "mimeType": "image/png"}]
        more.setdefault("textures", [{"source": 0}])
    if material is not None:
        more |= {"materials": [material], "material": 0}
    return glb.write(path, [{"mesh": 0}], attributes=attributes, indices=indices, **more)


def picture(kind="PNG", pixels=None):
    pixels = (
        np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
        if pixels is None
        else pixels
    )
    stream = io.BytesIO()
    Image.fromarray(pixels.repeat(16, 0).repeat(16, 1)).save(stream, kind, lossless=True, quality=100)
    return stream.getvalue()


def test_strided_sparse_and_normalised_accessors(tmp_path):
    glb = SmallGlb()
    glb.views.append({"buffer": 0, "byteOffset": len(glb.data), "byteLength": 20, "byteStride": 8})
    glb.data += np.array([[1, 2, 9, 9], [3, -128, 9, 9], [127, -64, 9, 9]], np.int16)[:, :4].tobytes()[:20]
    glb.accessors += [
        {"bufferView": 1, "componentType": 5122, "type": "VEC2", "count": 3},
        {
            "bufferView": 1,
            "componentType": 5120,
            "type": "SCALAR",
            "count": 2,
            "normalized": True,
            "byteOffset": 10,
        },
    ]
    indices, values = (
        glb.view(np.array([0, 2], np.uint8).tobytes()),
        glb.view(np.array([7, 8], np.uint16).tobytes()),
    )
    sparse = {
        "count": 2,
        "indices": {"bufferView": indices, "componentType": 5121},
        "values": {"bufferView": values},
    }
    glb.accessors += [
        {"componentType": 5123, "type": "SCALAR", "count": 4, "sparse": sparse},
        {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 99},
    ]
    arrays = GltfArrays(GltfFile(glb.write(tmp_path / "a.glb", [{"mesh": 0}])))
    assert arrays.array(1).tolist() == [[1, 2], [3, -128], [127, -64]]
    np.testing.assert_allclose(arrays.array(2)[:, 0], [-1, -64 / 127])  # -128 / 127 is cut
    assert arrays.array(3)[:, 0].tolist() == [7, 0, 8, 0]
    with pytest.raises(ValueError, match="a.glb: accessor 4 cannot be read"):
        arrays.array(4)


def test_buffers_with_addresses(tmp_path):
    (tmp_path / "b c.bin").write_bytes(b"1234")
    file = GltfFile(SmallGlb().write(tmp_path / "a.glb", [{"mesh": 0}]))
    assert file.data({"uri": "b%20c.bin"}) == b"1234"
    with pytest.raises(ValueError, match=r"a.glb: names '../secret', which is not in its folder"):
        file.data({"uri": "../secret"})
    address = "data:application/octet-stream;base64," + base64.b64encode(b"56").decode()
    assert file.data({"uri": address}) == b"56" and file.data({})[:36] == TRIANGLE.tobytes()


@pytest.mark.parametrize(("mode", "faces"), [(5, [[0, 1, 2], [1, 3, 2]]), (6, [[1, 2, 0], [2, 3, 0]])])
def test_strips_and_fans_keep_their_winding(tmp_path, mode, faces):
    glb = SmallGlb(FLAT)
    normals = {"NORMAL": glb.add([[0, 1, 0]] * 4, "VEC3")}
    path = glb.write(tmp_path / "a.glb", [{"mesh": 0}], attributes=normals, mode=mode)
    assert parts_of(path)[0].faces.tolist() == faces


def test_faces_without_normals_are_flat_and_mirrors_turn_them(tmp_path):
    glb = SmallGlb()
    (part,) = parts_of(glb.write(tmp_path / "a.glb", [{"mesh": 0}]))
    np.testing.assert_allclose(part.normals, [[0, -1, 0]] * 3, atol=1e-6)  # +z of glTF
    (part,) = parts_of(glb.write(tmp_path / "a.glb", [{"mesh": 0, "scale": [-1, 1, 1]}]))
    np.testing.assert_allclose(part.normals, [[0, -1, 0]] * 3, atol=1e-6)
    assert part.faces.tolist() == [[2, 1, 0]]


def test_base_colours_are_encoded_as_srgb_and_multiplied_by_vertex_colours(tmp_path):
    material = {
        "pbrMetallicRoughness": {"baseColorFactor": [0.5, 1, 0.002, 1]},
        "extensions": {"KHR_materials_unlit": {}},
    }
    image, _ = shown(quad(tmp_path / "a.glb", material))
    assert image[4, 4].tolist() == [188, 255, 7]  # 0.5 -> 0.735, 0.002 -> 12.92 * 0.002
    colors = {"array": [[128, 255, 0]] * 4, "kind": "VEC3", "dtype": np.uint8, "normalized": True}
    image, _ = shown(quad(tmp_path / "b.glb", material, colors=colors))
    assert np.abs(image[4, 4].astype(int) - [138, 255, 0]).max() <= 1  # 188 * srgb(128 / 255) / 255


def test_lit_faces_are_darker_from_below(tmp_path):
    material = {"doubleSided": True, "pbrMetallicRoughness": {"baseColorFactor": [0.1, 0.1, 0.1, 1]}}
    above, _ = shown(quad(tmp_path / "a.glb", material))
    below, _ = shown(quad(tmp_path / "b.glb", material, flip=True))
    assert above[4, 4, 0] == below[4, 4, 0] > 89  # the back is lit from its own side, so it is as bright


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_textures_lie_where_gltf_puts_them(tmp_path, kind):
    """(0, 0) is the upper left corner of the picture."""
    material = {
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}},
        "extensions": {"KHR_materials_unlit": {}},
    }
    for u, v, color in ((0.25, 0.25, [255, 0, 0]), (0.75, 0.25, [0, 255, 0]), (0.25, 1.75, [0, 0, 255])):
        textures = (
            [{"extensions": {"EXT_texture_webp": {"source": 0}}}] if kind == "WEBP" else [{"source": 0}]
        )
        path = quad(tmp_path / "a.glb", material, [[u, v]] * 4, picture=picture(kind), textures=textures)
        image, _ = shown(path)
        assert np.abs(image[4, 4].astype(int) - color).max() <= (60 if kind == "JPEG" else 2), (u, v)


def test_textures_are_moved_clamped_and_mirrored(tmp_path):
    def color(u, v, sampler, **transform):
        base = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
        material = {
            "pbrMetallicRoughness": {"baseColorTexture": base},
            "extensions": {"KHR_materials_unlit": {}},
        }
        path = quad(tmp_path / "a.glb", material, [[u, v]] * 4, picture=picture(), samplers=[sampler],
                    textures=[{"source": 0, "sampler": 0}])  # fmt: skip
        return shown(path)[0][4, 4].tolist()

    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    assert color(0.25, 0.25, {}, offset=[0.5, 0]) == green
    assert color(0.5, 0.5, {}, scale=[0.5, 0.5]) == red
    assert color(0.25, 0.25, {}, rotation=np.pi / 2, offset=[0, 1]) == blue  # u' = v, v' = 1 - u
    assert color(1.25, 0.25, {}) == red and color(1.25, 0.25, {"wrapS": 33071}) == green
    assert color(1.25, 0.25, {"wrapS": 33648}) == green and color(1.75, 0.25, {"wrapS": 33648}) == red


@pytest.mark.parametrize(
    ("mode", "opacity", "grey"),
    [("OPAQUE", 0.3, 0), ("MASK", 0.3, 255), ("MASK", 0.6, 0), ("BLEND", 0.25, 191), ("BLEND", 0.75, 64)],
)
def test_opacity(tmp_path, mode, opacity, grey):
    """BLEND draws the share of the samples that opacity says, over white; depth is that of what is seen the most."""
    factor = [0, 0, 0, opacity]
    material = {"alphaMode": mode, "pbrMetallicRoughness": {"baseColorFactor": factor},
                "extensions": {"KHR_materials_unlit": {}}}  # fmt: skip
    image, depth = shown(quad(tmp_path / "a.glb", material))
    assert abs(int(image[4, 4, 0]) - grey) <= 1 and (depth[4, 4] > 0) == (grey < 128)


def test_the_opacity_of_a_texture_counts(tmp_path):
    pixels = np.zeros((1, 2, 4), np.uint8)
    pixels[0, 1, 3] = 255
    base = {"baseColorTexture": {"index": 0}}
    material = {"alphaMode": "MASK", "pbrMetallicRoughness": base, "extensions": {"KHR_materials_unlit": {}}}
    for u, grey in ((0.25, 255), (0.75, 0)):
        image, _ = shown(quad(tmp_path / "a.glb", material, [[u, 0.5]] * 4, picture=picture(pixels=pixels)))
        assert image[4, 4, 0] == grey
    assert parts_of(quad(tmp_path / "b.glb", {"alphaMode": "BLEND"}))[0].cutout == COVERAGE


def test_backs_of_closed_surfaces_are_hidden_unless_double_sided(tmp_path):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = [0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3]
    for material, sides, indices in (
        ({}, "front", faces),
        ({"doubleSided": True}, "both", faces),
        ({}, "both", faces[:9]),
    ):
        glb = SmallGlb(corners)
        path = glb.write(tmp_path / "a.glb", [{"mesh": 0}], indices=glb.add(indices, "SCALAR", np.uint8),
                         materials=[material], material=0)  # fmt: skip
        assert parts_of(path)[0].sides == sides


def test_what_is_not_supported_is_said_in_one_line(tmp_path):
    glb = SmallGlb()
    for name in ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu"):
        path = glb.write(tmp_path / "a.glb", [{"mesh": 0}], extensionsRequired=[name])
        with pytest.raises(ValueError, match=f"^[^\n]*a.glb: needs {name}, which is not supported$"):
            GltfModel(GltfFile(path))
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    path = quad(
        tmp_path / "a.glb", material, textures=[{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    )
    with pytest.raises(ValueError, match="texture 0 has KHR_texture_basisu; expected PNG, JPEG or WebP"):
        GltfModel(GltfFile(path))
    with pytest.raises(ValueError, match="a.glb: shows no triangles"):
        GltfModel(GltfFile(glb.write(tmp_path / "a.glb", [{"mesh": 0}], mode=1)))
    with pytest.raises(ValueError, match="a.glb: a node, mesh or material is malformed: IndexError"):
        GltfModel(GltfFile(glb.write(tmp_path / "a.glb", [{"mesh": 7}])))
