"""A folder of GLB files -> animated, still, room and physics scenes, on files that the tests write."""

import logging

import numpy as np
import pytest
from small_glb import SmallGlb

from datamodules.shards import read_shard
from preparation.synthetic import furniture_command, objects, rooms, static
from preparation.synthetic.glb_assets import find_glbs, glbs_of_split
from preparation.synthetic.glb_clips import GlbClip, action
from scene4d.sample_format import decode_sample

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
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
TERMS = "CC0-1.0, Jane"


def write(path, shape, turn=None, name="Rig|Walk", color=(0.2, 0.5, 0.8, 1), length=1.0, **more):
    """A box of some shape that swings about its upright axis by `turn` radians and back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    glb = SmallGlb(CUBE * shape)
    if turn is not None:
        there = [0, np.sin(turn / 2), 0, np.cos(turn / 2)]
        glb.animate(name, (0, "rotation", [0, length / 2, length], [[0, 0, 0, 1], there, [0, 0, 0, 1]]))
    materials = [{"pbrMetallicRoughness": {"baseColorFactor": list(color)}}]
    indices = glb.add(FACES, "SCALAR", np.uint16)
    nodes = [{"mesh": 0, "name": path.stem}]
    return glb.write(path, nodes, indices=indices, materials=materials, material=0, **more)


@pytest.fixture
def pack(tmp_path):
    """Six animated files in four groups, seven still ones in six, and one that is compressed."""
    folder = tmp_path / "pack"
    write(folder / "horse.glb", (1, 2, 3), 1.0)
    write(folder / "horse_white.glb", (1, 2, 3), 1.5, "Rig|Run", (1, 1, 1, 1), 1.2)  # the mesh of the horse
    write(folder / "mage.glb", (1, 4, 1), 2.0, "Cast", length=0.8)
    write(folder / "knight.glb", (1.5, 3, 1), 2.0, "Cast", length=0.8)  # the motion of the mage
    write(folder / "Enemy_Large.glb", (2, 1, 1), 2.5, "Death", length=3)
    write(folder / "fish.glb", (1, 1, 2), 0.9, "Swim", length=0.7)
    for number, name in enumerate(["Tree_1", "Tree_2", "chair", "table", "lamp", "crate", "pot"]):
        write(folder / "still" / f"{name}.glb", (1 + 0.1 * number, 1, 1))
    write(folder / "packed.glb", (1, 1, 1), 1.0, extensionsRequired=["KHR_draco_mesh_compression"])
    return folder


def names(assets):
    return {asset.name.removeprefix("pack/").removeprefix("still/") for asset in assets}


def test_what_shares_a_mesh_a_motion_or_a_name_is_in_one_split(pack, caplog):
    with caplog.at_level(logging.WARNING):
        assets = find_glbs([pack], [TERMS])
    assert len(assets) == 13 and "packed.glb: needs KHR_draco_mesh_compression" in caplog.text
    assert caplog.text.count("\n") == 1
    train, val = glbs_of_split(assets, "train"), glbs_of_split(assets, "val")
    assert names(train) | names(val) == names(assets) and not names(train) & names(val)
    assert {asset.group for asset in train}.isdisjoint(asset.group for asset in val)
    for split in (train, val):
        assert {bool(asset.animations) for asset in split} == {True, False}, "both kinds are in both splits"
    group = {name: asset.group for asset in train + val for name in names([asset])}
    for one, other in (("horse", "horse_white"), ("mage", "knight"), ("Tree_1", "Tree_2")):
        assert group[one] == group[other], one
    assert len(set(group.values())) == 10


def test_damaged_files_are_left_out_in_one_line_each(pack, caplog):
    (pack / "no.glb").write_bytes(b"glTF")
    write(pack / "nodes.glb", (1, 1, 1), scenes=[{"nodes": [7]}])
    write(pack / "moved.glb", (1, 1, 1), 1.0, scene=3, scenes=[])
    path = write(pack / "channel.glb", (1, 1, 1), 1.0)
    path.write_bytes(path.read_bytes().replace(b'"channels": [{"sampler": 0', b'"channels": [{"sampler": 9'))
    with caplog.at_level(logging.WARNING):
        found = names(find_glbs([pack], [TERMS]))
    assert found & {"no", "nodes", "channel"} == set() and "moved" in found
    for name in ("no", "nodes", "channel"):
        assert sum(f"/{name}.glb" in record.getMessage() for record in caplog.records) == 1
    assert len(caplog.records) == 4 and not any("\n" in record.getMessage() for record in caplog.records)


def test_motions_of_one_folder_are_the_same_when_name_and_duration_are(tmp_path):
    """Their numbers differ for another rig."""
    for name, turn, length in (("a", 1.0, 1.0), ("b", 1.1, 1.0), ("c", 1.2, 2.0)):
        write(tmp_path / f"{name}.glb", (1, 1 + turn, 1), turn, "Walk", length=length)
    groups = {asset.name[-1]: asset.traits for asset in find_glbs([tmp_path], [TERMS])}
    assert groups["a"] & groups["b"] and not groups["a"] & groups["c"]


def test_every_folder_has_a_licence(pack, tmp_path):
    other = write(tmp_path / "other" / "BlueFish2.glb", (1, 1, 1)).parent
    assets = find_glbs([pack, other], ["CC0-1.0, Jane", "CC-BY-4.0, Joe"])
    assert {asset.attribution for asset in assets} > {"blue fish (other/BlueFish2), CC-BY-4.0, Joe"}
    with pytest.raises(ValueError, match="2 GLB folders need 1 or 2 licences, got 0"):
        find_glbs([pack, other], [])
    with pytest.raises(ValueError, match="none' is no folder; expected a folder of GLB files"):
        find_glbs([tmp_path / "other" / "none"], [TERMS])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no usable GLB file below"):
        find_glbs([tmp_path / "empty"], [TERMS])


def test_clips_never_run_faster_than_their_file(pack):
    assets = {asset.name[5:]: asset for asset in find_glbs([pack], [TERMS])}
    (long,) = assets["Enemy_Large"].animations
    (short,) = assets["fish"].animations
    clip, rng = GlbClip(assets["Enemy_Large"], long), np.random.default_rng(0)
    assert clip.loops and clip.caption == "an enemy large dying"
    for _ in range(20):
        times = clip.times(rng, 29, 12.0)
        assert 1.5 <= np.ptp(times) <= 28 / 12 + 1e-9, "half of three seconds to what 29 frames last"
    times = GlbClip(assets["fish"], short).times(rng, 29, 12.0)
    assert 0.35 <= np.ptp(times) <= 0.7, "slowed down"
    first, last = clip.meshes(np.array([0.5, 3.5]))
    np.testing.assert_allclose(first[0].vertices, last[0].vertices, atol=1e-6)


def test_actions_are_read_off_names():
    found = [action(name) for name in ("Armature|Attack_Kick", "Walking_B", "swordAttackJump", "Wiggle")]
    assert found == ["kicking", "walking", "jumping", "moving"]


def command(pack, output, *more):
    return ["--glb", str(pack), "--glb-license", TERMS, "--output", str(output), "--scenes", "1", "--no-text",
            "--size", "48", *more]  # fmt: skip


def sample_in(output):
    (path,) = output.glob("*.tar")
    (members,) = read_shard(str(path))
    return decode_sample(members)


@pytest.mark.parametrize("split", ["train", "val"])
def test_animated_files_become_clips_on_white(pack, tmp_path, split):
    objects.main(command(pack, tmp_path / "out", "--split", split))
    sample = sample_in(tmp_path / "out")
    assert sample.images.shape == (8, 29, 48, 48, 3) and sample.depths.shape == (8, 8, 48, 48)
    assert TERMS in sample.license and "(pack/" in sample.license
    of_split = {asset.group for asset in glbs_of_split(find_glbs([pack], [TERMS]), split)}
    assert sample.group in of_split
    assert (sample.images[:, :, 0] > 225).all() and (sample.images < 240).any((2, 3, 4)).all()
    assert np.abs(sample.images[0, 0].astype(float) - sample.images[0]).max() > 30


def test_animated_files_stand_in_rooms_and_still_ones_too(pack, tmp_path, texture_root):
    textures = ("--textures", str(texture_root))
    rooms.main(command(pack, tmp_path / "rooms", *textures))
    sample = sample_in(tmp_path / "rooms")
    assert sample.images.shape == (8, 9, 48, 48, 3) and (sample.depths > 0).all() and TERMS in sample.license
    furniture_command.run("static", "", static.make_scene, command(pack, tmp_path / "static", *textures))
    sample = sample_in(tmp_path / "static")
    assert sample.images.shape == (8, 1, 48, 48, 3) and (sample.depths > 0).all()
    assert sample.group.count("still/") >= 3 and sample.license.count(TERMS) >= 3


def test_still_files_fall(pack, tmp_path, texture_root):
    pytest.importorskip("pybullet")
    from preparation.synthetic import physics

    arguments = command(pack, tmp_path / "out", "--textures", str(texture_root))
    furniture_command.run("physics", "", physics.make_scene, arguments)
    sample = sample_in(tmp_path / "out")
    assert sample.images.shape == (8, 29, 48, 48, 3) and "falling on a" in sample.caption
    assert TERMS in sample.license


def test_something_must_be_shown(tmp_path, capsys):
    with pytest.raises(SystemExit):
        objects.main(["--output", str(tmp_path), "--scenes", "1"])
    assert "give --root or --glb" in capsys.readouterr().err
