"""GLB files are cut to their default scene and one animation without Blender."""

import pytest
from small_glb import SmallGlb

from preparation.rendering.gltf_file import GltfFile


@pytest.fixture
def file(tmp_path) -> GltfFile:
    glb = SmallGlb()
    glb.animate("wave", (0, "translation", [0.5, 2], [[0, 0, 0], [1, 0, 0]]))
    glb.animate(
        "bow", (1, "scale", [0, 1], [[1, 1, 1], [2, 2, 2]]), (1, "translation", [0, 3], [[0] * 3] * 2)
    )
    glb.animate("wave", (2, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]]))
    nodes = [{"children": [1]}, {"mesh": 0}, {"mesh": 0, "translation": [9, 0, 0]}, {"mesh": 0}]
    scenes = [{"nodes": [2]}, {"nodes": [0]}]
    return GltfFile(
        glb.write(tmp_path / "a.glb", nodes, scene=1, scenes=scenes, images=[{"uri": "my%20skin.png"}])
    )


def test_animations_are_listed_by_name_with_their_times(file):
    found = [(clip.name, clip.index, clip.start, clip.end) for clip in file.animations()]
    assert found == [("bow", 1, 0, 3), ("wave", 0, 0.5, 2), ("wave.001", 2, 0, 1)]


def test_one_animation_and_the_default_scene_are_left(file, tmp_path):
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "b.glb"
    path.write_bytes(file.alone(file.animations()[0]))
    alone = GltfFile(path)
    assert [clip.name for clip in alone.animations()] == ["bow"]
    assert alone.document["scenes"] == [{"nodes": [0]}] and alone.document["scene"] == 0
    assert alone.document["nodes"] == [{"children": [1]}, {"mesh": 0}, {"translation": [9, 0, 0]}, {}]
    assert alone.buffers == file.buffers
    assert alone.document["images"] == [{"uri": f"{tmp_path.resolve()}/my%20skin.png"}]


def test_a_file_without_scenes_shows_all(tmp_path):
    glb = SmallGlb()
    glb.animate("a", (0, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]]))
    file = GltfFile(glb.write(tmp_path / "a.glb", [{"mesh": 0}, {"mesh": 0}]))
    (tmp_path / "b.glb").write_bytes(file.alone(file.animations()[0]))
    assert GltfFile(tmp_path / "b.glb").document["nodes"] == [{"mesh": 0}, {"mesh": 0}]


@pytest.mark.parametrize("data", [b"", b"glTF", b"no glTF file at all, but long enough", b"glTF" + bytes(40)])
def test_other_files_are_named(tmp_path, data):
    (tmp_path / "a.glb").write_bytes(data)
    with pytest.raises(ValueError, match="a.glb: expected a binary glTF file"):
        GltfFile(tmp_path / "a.glb")


def test_malformed_animations_are_named(file):
    file.document["animations"][1]["samplers"] = [{"input": 99}]
    with pytest.raises(ValueError, match="a.glb: animation 1 is malformed"):
        file.animations()
