"""A GLB file as triangles in any pose, with z up: skins, morph targets, node animation and materials.

Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (section 3.7)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int32
from numpy import ndarray
from scipy.sparse import csr_array

from preparation.rendering.gltf_arrays import GltfArrays
from preparation.rendering.gltf_file import Animation, GltfFile
from preparation.rendering.gltf_materials import Material, read_material, srgb
from preparation.rendering.gltf_pose import Channel, morph_weights, node_matrices, read_channels
from preparation.rendering.mesh_renderer import vertex_normals
from preparation.rendering.parts import Part
from preparation.rendering.upright import z_up

SUPPORTED = {
    "KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp",
    "KHR_materials_pbrSpecularGlossiness", "KHR_lights_punctual",
}  # fmt: skip
TRIANGLES, STRIP, FAN = 4, 5, 6


@dataclass(frozen=True)
class Primitive:
    """Triangles of one material as they are stored, and what moves them.

    Attributes:
        node: Number of the node that shows them.
        vertices: Positions in the axes of the mesh.
        normals: Normals; None stands for those of the flat faces.
        faces: Vertex indices of every triangle.
        targets: Offsets of the vertices in every morph target.
        normal_targets: Offsets of the normals in every morph target.
        rest_weights: Weights of the morph targets without animation.
        joints: Nodes of the skin's joints; empty without a skin.
        inverse_bind: Matrices from the mesh to the joints.
        influence: Weights of the joints on every vertex; None without a skin.
        uv: Texture coordinates.
        tint: sRGB colours and opacity of the vertices.
        material: Colours.
        shown_from: Sides, see `Part`. A one-sided material hides the back of closed surfaces only: a fin or a leaf
            would vanish from half of the cameras.
    """

    node: int
    vertices: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"] | None
    faces: Int32[ndarray, "m 3"]
    targets: Float[ndarray, "k n 3"]
    normal_targets: Float[ndarray, "k n 3"]
    rest_weights: list[float]
    joints: list[int]
    inverse_bind: Float[ndarray, "j 4 4"]
    influence: csr_array | None
    uv: Float32[ndarray, "n 2"] | None
    tint: Float32[ndarray, "n 4"] | None
    material: Material
    shown_from: Literal["front", "both"]


class GltfModel:
    """The default scene of a GLB file.

    Args:
        file: File to read.

    Raises:
        ValueError: The file is malformed, needs an extension that is not supported (such as compressed meshes), or
            shows no triangles; names the file.
    """

    def __init__(self, file: GltfFile) -> None:
        check_supported(file)
        self.file, self.arrays = file, GltfArrays(file)
        try:
            self.shown = file.shown_nodes()
            self.primitives = list(self._primitives())
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{file.path}: a node, mesh or material is malformed: {error!r}") from error
        if not self.primitives:
            raise ValueError(f"{file.path}: shows no triangles")

    def posed(self, animation: Animation | None, times: Float[ndarray, "t"]) -> list[list[Part]]:
        """Returns all triangles at every instant.

        Args:
            animation: What moves; None is the rest pose.
            times: Instants, seconds.
        """
        channels = [] if animation is None else read_channels(self.arrays, animation.index)
        matrices = node_matrices(self.file.document["nodes"], self.shown, channels, times)
        by_primitive = [_posed(primitive, matrices, channels, times) for primitive in self.primitives]
        return [list(parts) for parts in zip(*by_primitive)]

    def _primitives(self) -> Iterable[Primitive]:
        document = self.file.document
        for number in self.shown:
            node = document["nodes"][number]
            if "mesh" in node:
                mesh = document["meshes"][node["mesh"]]
                weights = node.get("weights", mesh.get("weights", []))
                for primitive in mesh["primitives"]:
                    if (
                        primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN)
                        and primitive["attributes"]
                    ):
                        yield self._primitive(number, primitive, weights)

    def _primitive(self, number: int, primitive: dict, weights: list[float]) -> Primitive:
        attributes = {name: self.arrays.array(index) for name, index in primitive["attributes"].items()}
        count = len(attributes["POSITION"])
        faces = _faces(self._indices(primitive, count), primitive.get("mode", TRIANGLES))
        if len(faces) and faces.max() >= count:
            raise ValueError(f"{self.file.path}: a mesh indexes vertex {faces.max()} of {count}")
        targets = [
            {name: self.arrays.array(index) for name, index in target.items()}
            for target in primitive.get("targets", [])
        ]
        if "NORMAL" not in attributes:  # flat faces share no vertices (section 3.7.2.1)
            order, faces = faces.ravel(), np.arange(faces.size, dtype=np.int32).reshape(-1, 3)
            attributes = {name: values[order] for name, values in attributes.items()}
            targets = [{name: values[order] for name, values in target.items()} for target in targets]
        material = read_material(self.arrays, primitive.get("material"))
        uv = attributes.get(material.coordinates) if material.texture is not None else None
        joints, inverse_bind, influence = self._skin(number, attributes)
        return Primitive(
            number, attributes["POSITION"].astype(float), attributes.get("NORMAL"), faces,
            _offsets(targets, "POSITION", attributes), _offsets(targets, "NORMAL", attributes),
            [*weights, *[0.0] * (len(targets) - len(weights))], joints, inverse_bind, influence,
            None if uv is None else material.uv(uv.astype(float)).astype(np.float32),
            _tint(attributes.get("COLOR_0")), material,
            "front" if not material.double_sided and _closed(attributes["POSITION"], faces) else "both",
        )  # fmt: skip

    def _indices(self, primitive: dict, count: int) -> ndarray:
        return self.arrays.array(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(count)

    def _skin(
        self, number: int, attributes: dict[str, ndarray]
    ) -> tuple[list[int], ndarray, csr_array | None]:
        """Returns joints, inverse bind matrices, and the weight of every joint on every vertex, of sum 1."""
        skin = self.file.document["nodes"][number].get("skin")
        if skin is None or "JOINTS_0" not in attributes:
            return [], np.zeros((0, 4, 4)), None
        described = self.file.document["skins"][skin]
        joints = described["joints"]
        inverse_bind = np.tile(np.eye(4), (len(joints), 1, 1))
        if "inverseBindMatrices" in described:
            stored = self.arrays.array(described["inverseBindMatrices"])[: len(joints)]
            inverse_bind = stored.reshape(-1, 4, 4).transpose(0, 2, 1).astype(float)
        sets = [name[7:] for name in attributes if name.startswith("JOINTS_")]
        columns = np.concatenate([attributes[f"JOINTS_{name}"] for name in sets], 1)
        weights = np.concatenate([attributes[f"WEIGHTS_{name}"].astype(float) for name in sets], 1)
        weights = np.nan_to_num(weights).clip(0)  # exporters write 0 / 0 where no joint holds a vertex
        weights[weights.sum(1) <= 0, 0] = 1  # such a vertex follows its first
        columns = np.where(weights > 0, columns, 0)
        if columns.max(initial=0) >= len(joints):
            raise ValueError(
                f"{self.file.path}: skin {skin} has {len(joints)} joints, asked for {columns.max()}"
            )
        weights /= weights.sum(1, keepdims=True)
        rows = np.repeat(np.arange(len(columns)), columns.shape[1])
        shape = (len(columns), len(joints))
        return joints, inverse_bind, csr_array((weights.ravel(), (rows, columns.ravel())), shape)


def check_supported(file: GltfFile) -> None:
    """Refuses files that cannot be read without an extension that is missing here.

    Raises:
        ValueError: There is one; names file and extension.
    """
    missing = sorted(set(file.document.get("extensionsRequired", [])) - SUPPORTED)
    if missing:
        raise ValueError(f"{file.path}: needs {', '.join(missing)}, which is not supported")


def _posed(
    primitive: Primitive, matrices: dict[int, ndarray], channels: list[Channel], times: Float[ndarray, "t"]
) -> list[Part]:
    vertices, normals = _morphed(primitive, channels, times)
    placing = _placing(primitive, matrices)
    vertices = np.einsum("tnij,tnj->tni", placing[..., :3], vertices, optimize=True) + placing[..., 3]
    vertices = z_up(vertices).astype(np.float32)
    if normals is not None:
        normals = np.einsum("tnij,tnj->tni", _cofactors(placing[..., :3]), normals, optimize=True)
        normals = z_up(normals).astype(np.float32)
    material, faces = primitive.material, primitive.faces
    if primitive.influence is None and np.linalg.det(matrices[primitive.node][0, :3, :3]) < 0:
        faces = faces[:, ::-1]  # a mirror turns the winding (section 3.7.4)
        normals = None if normals is None else -normals
    return [
        Part(
            vertices[k], vertex_normals(vertices[k], faces) if normals is None else normals[k], faces,
            primitive.uv, material.texture if primitive.uv is not None else None, material.color,
            primitive.tint, material.lit, primitive.shown_from,
            material.opacity, material.cutout,
        )
        for k in range(len(times))
    ]  # fmt: skip


def _morphed(
    primitive: Primitive, channels: list[Channel], times: Float[ndarray, "t"]
) -> tuple[Float[ndarray, "t n 3"], Float[ndarray, "t n 3"] | None]:
    shape = (len(times), *primitive.vertices.shape)
    vertices = np.broadcast_to(primitive.vertices, shape)
    normals = None if primitive.normals is None else np.broadcast_to(primitive.normals, shape)
    if len(primitive.targets):
        weights = morph_weights(primitive.node, primitive.rest_weights, channels, times)
        vertices = vertices + np.tensordot(weights, primitive.targets, 1)
        normals = None if normals is None else normals + np.tensordot(weights, primitive.normal_targets, 1)
    return vertices, normals


def _placing(primitive: Primitive, matrices: dict[int, ndarray]) -> Float[ndarray, "t #n 3 4"]:
    """Returns the upper rows of the matrix of every vertex; a skin takes no heed of its own node's."""
    if primitive.influence is None:
        return matrices[primitive.node][:, None, :3]
    identity = np.broadcast_to(np.eye(4), matrices[primitive.node].shape)  # of joints outside the scene
    joints = np.stack([matrices.get(joint, identity) for joint in primitive.joints], 0)
    moved = (joints @ primitive.inverse_bind[:, None])[:, :, :3]
    blended = primitive.influence @ moved.reshape(len(joints), -1)
    return blended.reshape(-1, *moved.shape[1:]).swapaxes(0, 1)


def _cofactors(matrices: Float[ndarray, "t n 3 3"]) -> Float[ndarray, "t n 3 3"]:
    """Returns what turns normals, whatever the scale: the inverse transposed, times the determinant."""
    a, b, c = matrices[..., 0, :], matrices[..., 1, :], matrices[..., 2, :]
    return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -2)


def _faces(indices: ndarray, mode: int) -> Int32[ndarray, "m 3"]:
    """Returns triangles of a list, strip or fan, all with the same winding (section 3.7.2.1)."""
    indices = indices.astype(np.int32)
    if mode == TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        return np.stack([indices[1:-1], indices[2:], np.full_like(indices[2:], indices[0])], 1)
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], 1)
    faces[1::2] = faces[1::2, [0, 2, 1]]
    return faces


def _closed(vertices: Float[ndarray, "n 3"], faces: Int32[ndarray, "m 3"]) -> bool:
    """Tells whether every edge belongs to two faces, where vertices at one place count as one."""
    size = max(float(np.ptp(vertices, axis=0).max()), 1e-9)
    _, place = np.unique(np.round(vertices / size * 1e5).astype(int), axis=0, return_inverse=True)
    corners = place.reshape(-1)[faces]
    edges = np.sort(np.stack([corners, np.roll(corners, 1, 1)], -1).reshape(-1, 2), 1)
    edges = edges[edges[:, 0] < edges[:, 1]]
    _, counts = np.unique(edges[:, 0] * len(vertices) + edges[:, 1], return_counts=True)
    return bool((counts % 2 == 0).all())


def _offsets(targets: list[dict[str, ndarray]], name: str, attributes: dict[str, ndarray]) -> ndarray:
    zero = np.zeros_like(attributes["POSITION"], dtype=float)
    return np.array([target.get(name, zero) for target in targets], float).reshape(-1, *zero.shape)


def _tint(colors: ndarray | None) -> Float32[ndarray, "n 4"] | None:
    if colors is None:
        return None
    if colors.dtype.kind == "u":  # not marked as normalised, although it must be
        colors = colors / np.iinfo(colors.dtype).max
    opacity = colors[:, 3:] if colors.shape[1] == 4 else np.ones((len(colors), 1))
    return np.concatenate([srgb(colors[:, :3]), opacity], 1).astype(np.float32)


def read_gltf(path: Path) -> GltfModel:
    """Reads a GLB file, see `GltfModel`."""
    return GltfModel(GltfFile(path))
