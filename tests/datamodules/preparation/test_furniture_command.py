import hashlib
import logging

import numpy as np
import pytest

from datamodules.preparation import furniture_command
from datamodules.preparation.furniture_command import SceneSet, run, write_shards
from datamodules.preparation.stage import Assets, RejectedScene
from scene4d.sample_format import SceneSample

NOTHING = Assets((), (), "")


@pytest.fixture(autouse=True)
def plain_embedding(monkeypatch):
    """The text encoder takes seconds to load; what it returns is tested elsewhere."""
    monkeypatch.setattr(
        furniture_command, "embed_captions", lambda captions: np.ones((len(captions), 1, 384), np.float32)
    )


def tiny_scene(assets, rng, key) -> SceneSample:
    if rng.random() < 0.5:
        raise RejectedScene("tails")
    return SceneSample(
        key, "static", rng.integers(0, 255, (2, 1, 16, 16, 3), dtype=np.uint8), 12.0, caption="x"
    )


def digests(folder) -> dict[str, str]:
    return {p.name: hashlib.sha1(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.tar"))}


def test_restart_and_parts_give_the_same_shards(tmp_path, caplog):
    scenes = SceneSet("static", "train", 5, NOTHING, tiny_scene)
    write_shards(scenes, tmp_path / "a", 7, shard_size=3)
    whole = digests(tmp_path / "a")
    assert list(whole) == [f"static-train-{k:06d}.tar" for k in range(3)]
    (tmp_path / "a" / "static-train-000001.tar").unlink()
    with caplog.at_level(logging.INFO):
        write_shards(scenes, tmp_path / "a", 7, shard_size=3)
    assert digests(tmp_path / "a") == whole
    assert caplog.text.count("exists, skipped") == 2 and "rejected: tails" in caplog.text
    for i in range(2):
        write_shards(scenes, tmp_path / "b", 7, shard_size=3, part=(i, 2))
    assert digests(tmp_path / "b") == whole


def test_interrupted_shard_leaves_nothing(tmp_path):
    def failing(assets, rng, key):
        if key.endswith("2"):
            raise KeyboardInterrupt
        return tiny_scene(assets, np.random.default_rng(1), key)

    with pytest.raises(KeyboardInterrupt):
        write_shards(SceneSet("static", "train", 0, NOTHING, failing), tmp_path, 4)
    assert list(tmp_path.iterdir()) == []


def test_hopeless_scene_says_why():
    def hopeless(assets, rng, key):
        raise RejectedScene("too dark")

    with pytest.raises(ValueError, match="static-val-0-000003.*too dark"):
        SceneSet("static", "val", 0, NOTHING, hopeless).draw(3)


def test_scenes_of_other_numbers_splits_and_seeds_differ():
    images = [
        SceneSet("static", split, seed, NOTHING, tiny_scene).draw(number).images
        for split, seed, number in (("train", 0, 0), ("train", 0, 1), ("train", 1, 0), ("val", 0, 0))
    ]
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize("part", ["2/2", "1", "a/b"])
def test_bad_part(part, furniture_root, texture_root, tmp_path):
    common = ["--root", str(furniture_root), "--textures", str(texture_root), "--output", str(tmp_path)]
    with pytest.raises(ValueError, match=repr(part)):
        run("static", tiny_scene, [*common, "--scenes", "1", "--split", "train", "--part", part])


def test_command_hands_over_only_assets_of_its_split(furniture_root, texture_root, tmp_path):
    seen = {}

    def spy(assets, rng, key):
        seen[key.split("-")[1]] = assets
        return tiny_scene(assets, np.random.default_rng(1), key)

    common = [
        "--root",
        str(furniture_root),
        "--textures",
        str(texture_root),
        "--output",
        str(tmp_path / "out"),
    ]
    for split in ("train", "val"):
        run("static", spy, [*common, "--scenes", "1", "--split", split])
    assert not set(seen["train"].models) & set(seen["val"].models)
    assert not set(seen["train"].textures) & set(seen["val"].textures)
    assert (tmp_path / "out" / "static-val-000000.tar").exists()
