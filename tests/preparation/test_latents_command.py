"""The command that adds latents: restarts, parts, damage, refusals."""

import json
import logging

import numpy as np
import pytest
import torch
import webdataset as wds
from safetensors.torch import save_file

from datamodules import GridAugmentation, HomographyViews
from datamodules.shards import read_shard
from preparation.inspect import main as inspect
from preparation.latents import main, with_latents
from preparation.writing.manifest import recorded
from preparation.writing.shards import write_shard
from preparation.writing.variants import ClipVariants
from scene4d.networks.autoencoder import PatchAutoencoder, autoencoder_fingerprint
from scene4d.sample_format import SceneSample, decode_sample, encode_sample


def scene(key: str, frames: int = 5, size: int = 16) -> SceneSample:
    images = np.random.default_rng(ord(key)).integers(0, 256, (2, frames, size, size, 3), dtype=np.uint8)
    return SceneSample(key, "objects", images, 12.0, license="CC0-1.0")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(3)
    codec = PatchAutoencoder(channels=4, width=64, depth=1)
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    return tmp_path / "codec.safetensors", autoencoder_fingerprint(codec)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    write_shard(folder / "objects-train-000000.tar", [scene("a"), scene("b", frames=1)])
    write_shard(folder / "objects-train-000001.tar", [scene("c")])
    return folder


def add(raw, output, weights, *more):
    main([
        f"{raw}/objects-train-*.tar", "--output", str(output), "--frames", "9",
        "--autoencoder", "scene4d.networks.PatchAutoencoder", "--autoencoder.channels", "4",
        "--autoencoder.width", "64", "--autoencoder.depth", "1",
        *(["--autoencoder.weights", str(weights[0])] if weights else []), *more,
    ])  # fmt: skip


def samples(folder):
    return {m["__key__"]: m for path in sorted(folder.glob("*.tar")) for m in read_shard(str(path))}


def test_shards_gain_latents_and_keep_all_else(raw, tmp_path, weights):
    out = tmp_path / "out"
    add(raw, out, weights)
    before, after = samples(raw), samples(out)
    assert list(after) == ["a", "b", "c"]
    for key, members in after.items():
        assert (
            members["view_00.webp" if key == "b" else "view_00.mp4"]
            == before[key]["view_00.webp" if key == "b" else "view_00.mp4"]
        )
        sample = decode_sample(members, latents=True)
        assert sample.autoencoder == weights[1] and sample.latents.shape == (
            2,
            4,
            3 if key == "b" else 2,
            2,
            2,
        )
    assert recorded(str(out / "objects-train-000000.tar")).samples == 2
    assert inspect([f"{out}/*.tar", "--sheet", str(tmp_path / "sheet.png")]) == 0


def test_restarts_and_parts_give_the_same_shards(raw, tmp_path, weights, caplog):
    content = lambda folder: {path.name: path.read_bytes() for path in folder.glob("*.tar")}  # noqa: E731
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    add(raw, whole, weights)
    expected = content(whole)
    finished = (whole / "objects-train-000001.tar").stat().st_mtime_ns
    (whole / "reports" / "objects-train-000000.json").unlink()  # stopped behind the shard, before its report
    with caplog.at_level(logging.INFO):
        add(raw, whole, weights)
    assert "2 shards, 1 exist already" in caplog.text and content(whole) == expected
    assert (whole / "objects-train-000001.tar").stat().st_mtime_ns == finished
    add(raw, parts, weights, "--part", "0/2")
    assert list(content(parts)) == ["objects-train-000000.tar"]
    add(raw, parts, weights, "--part", "1/2")
    assert content(parts) == expected


def test_damage_is_left_out_and_reported(raw, tmp_path, weights):
    broken = encode_sample(scene("d"))
    broken["view_01.mp4"] = b"garbage"
    with wds.TarWriter(str(raw / "objects-train-000002.tar")) as writer:
        for members in (encode_sample(scene("e")), broken, encode_sample(scene("f", size=20))):
            writer.write(members)
    cut = (raw / "objects-train-000000.tar").read_bytes()
    (raw / "objects-train-000000.tar").write_bytes(cut[: len(cut) // 2])
    add(raw, tmp_path / "out", weights)
    report = json.loads((tmp_path / "out/reports/latents-part-0-of-1.json").read_text())
    assert (report["scenes"], report["samples"]) == (report["samples"] + 3, len(samples(tmp_path / "out")))
    skipped = report["skipped"]
    assert "view_01.mp4 is damaged" in skipped["objects-train-000002.tar: d"]
    assert "20 x 20, both must be divisible" in skipped["objects-train-000002.tar: f"]
    assert "cannot be read" in skipped["objects-train-000000.tar"]


def test_remote_damage_is_tried_again_at_the_next_start(raw, tmp_path, weights, monkeypatch):
    monkeypatch.setattr("datamodules.archives.WAITS", ())
    one = raw / "objects-train-000001.tar"
    options = [f"pipe:cat {one} {tmp_path}/absent.tar", "--output", str(tmp_path / "out"), "--config"]
    (tmp_path / "c.yaml").write_text(
        "autoencoder: {class_path: scene4d.networks.PatchAutoencoder, init_args: {channels: 4, width: 64, "
        f"depth: 1, weights: {weights[0]}}}}}"
    )
    with pytest.raises(SystemExit, match="pipe:cat .* cannot be read"):
        main([*options, str(tmp_path / "c.yaml")])
    assert not list((tmp_path / "out").glob("**/*.tar")) and not list((tmp_path / "out").glob("**/*.json"))
    (tmp_path / "absent.tar").touch()
    main([*options, str(tmp_path / "c.yaml")])
    assert list(samples(tmp_path / "out")) == ["c"] and (tmp_path / "out" / "absent.tar").exists()


def test_what_does_not_fit_together_is_refused(raw, tmp_path, weights):
    with pytest.raises(SystemExit, match="would replace the shard that is read"):
        add(raw, raw, weights)
    with pytest.raises(SystemExit, match="10 frames, expected 4k"):
        add(raw, tmp_path / "out", weights, "--frames", "10")
    with pytest.raises(SystemExit, match="part must be i/n"):
        add(raw, tmp_path / "out", weights, "--part", "2/2")
    with pytest.raises(SystemExit, match="two shards are named objects-train-000000.tar"):
        main([str(raw / "objects-train-000000.tar")] * 2 + ["--output", str(tmp_path / "out"), "--autoencoder",
             "scene4d.networks.PatchAutoencoder", "--autoencoder.weights", "null"])  # fmt: skip
    add(raw, tmp_path / "out", weights)
    with pytest.raises(SystemExit, match="objects-train-000000.tar was made from other scenes or options"):
        add(raw, tmp_path / "out", None)


def test_options_of_variants_are_refused_in_one_line(raw, tmp_path, weights):
    homography = ["--homography", "datamodules.HomographyViews"]
    for options, message in [
        (["--variants", "2"], "--variants 2 would be equal: give --augmentation or --homography"),
        (["--augmentation", "{flip: 0.5}"], "--augmentation needs --variants 2 or more"),
        (["--variants", "0", *homography], "--variants must be at least 1, is 0"),
        (["--size", "0", "4"], r"--size must be positive, is \[0, 4\]"),
        (["--variants", "2", "--augmentation", "{flip: 2}"], r"flip must lie in \[0, 1\], got 2"),
        ([*homography, "--homography.scale", "2"], r"scale must lie in \[0, 0.5\], got 2"),
    ]:
        with pytest.raises(SystemExit, match=rf"^latents: [^\n]*{message}[^\n]*$"):
            add(raw, tmp_path / "out", weights, *options)
    missing = (tmp_path / "absent.safetensors", "")
    with pytest.raises(SystemExit, match=r"^latents: [^\n]*absent.safetensors' does not exist[^\n]*$"):
        add(raw, tmp_path / "out", missing)
    assert not (tmp_path / "out").exists()


def test_variants_by_the_command_line_are_those_of_the_reader(raw, tmp_path, weights):
    more = ["--size", "8", "24", "--variants", "3", "--seed", "5", "--homography", "datamodules.HomographyViews",
            "--homography.views", "3", "--augmentation.flip", "1"]  # fmt: skip
    add(raw, tmp_path / "out", weights, *more)
    codec = PatchAutoencoder(channels=4, width=64, depth=1, weights=str(weights[0])).eval()
    clips = ClipVariants(9, 3, (8, 24), GridAugmentation(flip=1), HomographyViews(views=3), 5)
    for key, members in samples(tmp_path / "out").items():
        wanted = with_latents(samples(raw)[key], codec, weights[1], clips)
        assert {name: wanted[name] for name in members if name[0] != "_"} == {
            name: data for name, data in members.items() if name[0] != "_"
        }
        assert decode_sample(members, latents=True, variant=2).latents.shape[0] == 3
    with pytest.raises(SystemExit, match="was made from other scenes or options"):
        add(raw, tmp_path / "out", weights, *more, "--homography.scale", "0.1")


@pytest.mark.slow  # each process imports torch
def test_processes_share_one_autoencoder(raw, tmp_path, weights):
    add(raw, tmp_path / "one", weights)
    add(raw, tmp_path / "two", weights, "--workers", "2")
    for path in (tmp_path / "one").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with pytest.raises(SystemExit, match="another in every process, it needs weights"):
        add(raw, tmp_path / "random", None, "--workers", "2")
