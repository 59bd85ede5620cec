"""Scenes drawn at random: the same again whoever makes them, and what was rejected is reported."""

import hashlib
import json

import numpy as np
import pytest

from datamodules.shards import read_shard
from preparation.synthetic import command, furniture_command
from preparation.synthetic.command import SceneSet
from preparation.synthetic.stage import Assets, RejectedScene
from preparation.writing import jobs
from scene4d.sample_format import SceneSample, decode_sample

NOTHING = Assets((), (), "")


@pytest.fixture(autouse=True)
def plain_embedding(monkeypatch):
    """The text encoder takes seconds to load; what it returns is tested elsewhere."""
    monkeypatch.setattr(
        jobs, "embed_captions", lambda texts: (np.ones((len(texts), 1, 384), np.float32), "e")
    )


def tiny_scene(assets, rng, key) -> SceneSample:
    if rng.random() < 0.5:
        raise RejectedScene("tails")
    return SceneSample(
        key, "static", rng.integers(0, 255, (2, 1, 16, 16, 3), dtype=np.uint8), 12.0, caption="x"
    )


def run(output, *more, make_scene=tiny_scene, assets=NOTHING) -> dict[str, str]:
    """Digests of all shards after the command."""

    def scenes(options):
        return SceneSet("static", options.split, options.seed, assets, make_scene)

    arguments = ["--root", ".", "--output", str(output), "--seed", "5", *more]
    command.run("static", None, scenes, arguments, textures=False)
    return {p.name: hashlib.sha1(p.read_bytes()).hexdigest() for p in sorted(output.glob("*.tar"))}


def test_restart_and_parts_give_the_same_shards(tmp_path):
    seven = ("--scenes", "7", "--shard-size", "3")
    whole = run(tmp_path / "a", *seven)
    assert list(whole) == [f"static-train-{k:06d}.tar" for k in range(3)]
    (tmp_path / "a" / "static-train-000001.tar").unlink()
    kept = tmp_path / "a" / "static-train-000002.tar"
    before = kept.stat().st_mtime_ns
    assert run(tmp_path / "a", *seven) == whole and kept.stat().st_mtime_ns == before
    for part in ("0/2", "1/2"):
        parts = run(tmp_path / "b", *seven, "--part", part)
    assert parts == whole


@pytest.mark.slow  # each process imports torch
def test_processes_give_the_same_shards(tmp_path):
    one, two = (
        run(tmp_path / n, "--scenes", "4", "--shard-size", "2", "--no-text", "--workers", n) for n in "12"
    )
    assert one == two and len(one) == 2


def test_captions_name_their_encoder(tmp_path):
    (path,) = run(tmp_path, "--scenes", "1") and tmp_path.glob("*.tar")
    (members,) = read_shard(str(path))
    sample = decode_sample(members)
    assert sample.text.shape == (1, 384) and sample.text_encoder == "e"


def test_rejected_drawings_and_hopeless_scenes_are_reported(tmp_path):
    def sometimes(assets, rng, key):
        if key.endswith("3"):
            raise RejectedScene("too dark")
        return tiny_scene(assets, rng, key)

    run(tmp_path, "--scenes", "4", make_scene=sometimes)
    report = json.loads((tmp_path / "reports" / "static-train-part-0-of-1.json").read_text())
    assert report["scenes"] == 4 and report["samples"] == 3
    assert report["skipped"]["static-train-5-000003"] == "all 60 attempts rejected, at last: too dark"
    assert "tails" in report["skipped"].values()
    assert set(report["skipped"]) > {f"static-train-5-000003: drawing {k}" for k in range(60)}
    with pytest.raises(SystemExit, match="static: none of 1 scenes could be used"):
        run(tmp_path / "none", "--scenes", "1", make_scene=lambda *_: 1 / 0)


@pytest.mark.parametrize("other", [("--seed", "6"), ("--scenes", "5"), ("--crf", "3"), ("--no-text",), ()])
def test_shards_of_other_scenes_are_not_taken_for_finished(tmp_path, other):
    run(tmp_path, "--scenes", "4")
    assets = NOTHING if other else Assets((), (tmp_path / "moss.bmp",), "")
    with pytest.raises(SystemExit, match="was made from other scenes or options"):
        run(tmp_path, "--scenes", "4", *other, assets=assets)


def test_interrupted_shard_leaves_nothing_and_a_missing_package_ends_the_run(tmp_path):
    for error in (KeyboardInterrupt, ImportError):

        def failing(assets, rng, key, error=error):
            if key.endswith("2"):
                raise error
            return tiny_scene(assets, np.random.default_rng(1), key)

        with pytest.raises(error):
            run(tmp_path, "--scenes", "4", make_scene=failing)
    assert list(tmp_path.iterdir()) == []


def test_scenes_of_other_numbers_splits_and_seeds_differ():
    images = [
        list(SceneSet("static", split, seed, NOTHING, tiny_scene).read(number))[-1].images
        for split, seed, number in (("train", 0, 0), ("train", 0, 1), ("train", 1, 0), ("val", 0, 0))
    ]
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize(
    "option", [("--part", "2/2"), ("--part", "1"), ("--part", "a/b"), ("--scenes", "0"), ("--workers", "-1")]
)
def test_bad_options_are_named(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--scenes", "1", *option)
    assert f"argument {option[0]}" in (said := capsys.readouterr().err) and repr(option[1]) in said


def test_command_hands_over_only_assets_of_its_split(furniture_root, texture_root, tmp_path):
    seen = {}

    def spy(assets, rng, key):
        seen[key.split("-")[1]] = assets
        return tiny_scene(assets, np.random.default_rng(1), key)

    folders = ["--root", str(furniture_root), "--textures", str(texture_root)]
    for split in ("train", "val"):
        rest = ["--output", str(tmp_path / "out"), "--scenes", "1", "--split", split]
        furniture_command.run("static", None, spy, [*folders, *rest])
    assert not set(seen["train"].models) & set(seen["val"].models)
    assert not set(seen["train"].textures) & set(seen["val"].textures)
    assert (tmp_path / "out" / "static-val-000000.tar").exists()
