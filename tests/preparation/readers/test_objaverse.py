"""A miniature skinned GLB: three small cubes on two joints, one of which turns."""

import json
import struct

import numpy as np
import pytest
from miniature import pixels, read

pytest.importorskip("bpy")
from preparation.readers.objaverse import PROBES, Objaverse  # noqa: E402

pytestmark = pytest.mark.slow  # Blender renders
HALF = 0.06
CUBES = np.array([[0.6, 0.1, 0.0], [-0.3, 0.5, 0.2], [0.1, -0.5, -0.3]])  # red, green, blue; y is up
JOINTS = (0, 1, 1)
SECONDS, ANGLE = 2.0, np.radians(60)
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * HALF
FACES = [
    0,
    1,
    3,
    0,
    3,
    2,
    4,
    6,
    7,
    4,
    7,
    5,
    0,
    4,
    5,
    0,
    5,
    1,
    2,
    3,
    7,
    2,
    7,
    6,
    0,
    2,
    6,
    0,
    6,
    4,
    1,
    5,
    7,
    1,
    7,
    3,
]
COLOURS = np.eye(3)


def write_glb(path, turns=True):
    """glTF 2.0, written by hand from its specification."""
    data, views, accessors = b"", [], []

    def add(array, kind, component):
        nonlocal data
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        accessors.append({"bufferView": len(views) - 1, "componentType": component, "type": kind,
                          "count": len(array), "min": np.atleast_1d(array.min(0)).tolist(),
                          "max": np.atleast_1d(array.max(0)).tolist()})  # fmt: skip
        data += array.tobytes() + b"\0" * (-array.nbytes % 4)
        return len(accessors) - 1

    faces, primitives = add(np.array(FACES, np.uint16), "SCALAR", 5123), []
    for number, (centre, joint) in enumerate(zip(CUBES, JOINTS)):
        attributes = {
            "POSITION": add((CORNERS + centre).astype(np.float32), "VEC3", 5126),
            "JOINTS_0": add(np.array([[joint, 0, 0, 0]] * 8, np.uint8), "VEC4", 5121),
            "WEIGHTS_0": add(np.array([[1, 0, 0, 0]] * 8, np.float32), "VEC4", 5126),
        }
        primitives.append({"attributes": attributes, "indices": faces, "material": number})
    times = add(np.array([0, SECONDS], np.float32), "SCALAR", 5126)
    angle = ANGLE if turns else 0.0
    quaternions = [[0, 0, 0, 1], [0, 0, np.sin(angle / 2), np.cos(angle / 2)]]
    turn = add(np.array(quaternions, np.float32), "VEC4", 5126)
    bind = add(np.stack([np.eye(4, dtype=np.float32).flatten()] * 2), "MAT4", 5126)
    document = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0, 2]}],
        "nodes": [{"name": "root", "children": [1]}, {"name": "arm"}, {"mesh": 0, "skin": 0}],
        "meshes": [{"primitives": primitives}],
        "skins": [{"joints": [0, 1], "inverseBindMatrices": bind}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1], "metallicFactor": 0}}
                      for colour in COLOURS.tolist()],
        "animations": [{"name": "turn", "samplers": [{"input": times, "output": turn}],
                        "channels": [{"sampler": 0, "target": {"node": 1, "path": "rotation"}}]}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(data)}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<III", 0x46546C67, 2, 28 + len(text) + len(data))
    chunks = [
        struct.pack("<II", len(text), 0x4E4F534A),
        text,
        struct.pack("<II", len(data), 0x004E4942),
        data,
    ]
    path.write_bytes(header + b"".join(chunks))


def place(points, joint, share):
    """glTF points after `share` of the animation, in Blender's axes (z up).

    Blender interpolates the quaternion's components, so the angle is not linear in time.
    """
    quaternion = (1 - share) * np.array([0, 1]) + share * np.array([np.sin(ANGLE / 2), np.cos(ANGLE / 2)])
    angle = 2 * np.arctan2(*quaternion) * joint
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    x, y, z = (points @ turn.T).T
    return np.stack([x, -z, y], axis=1)


def stage():
    """Centre and largest side of the box around everything at the instants that are measured."""
    posed = np.concatenate([
        place(CORNERS + centre, joint, share)
        for share in np.linspace(0, 1, PROBES) for centre, joint in zip(CUBES, JOINTS)
    ])  # fmt: skip
    low, high = posed.min(0), posed.max(0)
    return (low + high) / 2, (high - low).max()


def test_skinned_cubes_land_where_they_are_seen(tmp_path, record_property):
    root = tmp_path / "raw"
    root.mkdir()
    write_glb(root / "turning.glb")
    write_glb(root / "still.glb", turns=False)
    (root / "broken.glb").write_bytes(b"glTF")
    options = ("--size", "120x128", "--views", "2", "--arc", "40", "--frames", "3", "--fps", "1")
    samples = read(Objaverse, root, tmp_path / "out", *options, "--samples", "4")
    assert [sample.key for sample in samples] == ["objaverse-turning-000"]
    skipped = json.loads((tmp_path / "out/reports/objaverse-train-part-0-of-1.json").read_text())["skipped"]
    assert "hardly moves" in skipped["still"] and "broken.glb" in skipped["broken"]
    (sample,), (centre, extent) = samples, stage()
    assert sample.depth_frames == [0] and (sample.images[:, :, 0, 0] > 250).all()
    y, x = np.mgrid[:120, :128] + 0.5
    errors = []
    for view, (c2w, matrix) in enumerate(zip(sample.c2w.astype(float), sample.intrinsics.astype(float))):
        for frame, image in enumerate(sample.images[view].astype(int)):
            for colour, (cube, joint) in enumerate(zip(CUBES, JOINTS)):
                point = (place(cube[None], joint, frame / 2) - centre) / extent
                others = image[..., [k for k in range(3) if k != colour]].max(-1)
                mask = image[..., colour] - others > 60
                assert mask.sum() > 20
                seen = np.array([x[mask].mean(), y[mask].mean()])
                expected = pixels(point, c2w, matrix[[0, 1], [0, 1]], matrix[:2, 2])[0]
                errors.append(np.abs(seen - expected).max())
                if frame == 0:
                    along = (point[0] - c2w[:3, 3]) @ c2w[:3, 2]
                    depth = sample.depths[view, 0, int(expected[1]), int(expected[0])]
                    assert 0 < along - depth < 1.8 * HALF / extent
    record_property("reprojection_error_px", round(float(max(errors)), 3))
    assert max(errors) < 0.5
