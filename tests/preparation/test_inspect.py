import json
import logging

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from preparation.inspect import camera_problems, main
from preparation.rendering.camera_drawing import draw_cameras
from preparation.writing.manifest import recorded
from preparation.writing.shards import write_shard
from scene4d.sample_format import SceneSample, encode_sample


def scene(key: str, license: str = "CC0-1.0", frames: int = 5) -> SceneSample:
    """Four cameras on an arc that look at the origin."""
    rng = np.random.default_rng(len(key))
    images = rng.integers(0, 256, (4, 1, 16, 24, 3), dtype=np.uint8).repeat(frames, 1)
    angles = np.linspace(-0.6, 0.6, 4)
    c2w = np.tile(np.eye(4), (4, 1, 1))
    c2w[:, 0, 0] = c2w[:, 2, 2] = np.cos(angles)
    c2w[:, 0, 2], c2w[:, 2, 0] = np.sin(angles), -np.sin(angles)
    c2w[:, :3, 3] = -2 * c2w[:, :3, 2]
    intrinsics = np.tile(np.array([[20, 0, 12], [0, 20, 8], [0, 0, 1]], float), (4, 1, 1))
    return SceneSample(key, "objects", images, 12, c2w, intrinsics, license=license, caption="a box")


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "objects-train-000000.tar"
    write_shard(path, [scene("one"), scene("three", "CC-BY-3.0 by Jane")])
    return path


def test_the_manifest_says_what_a_shard_holds(shard, tmp_path):
    write_shard(tmp_path / "objects-train-000001.tar", [scene("three", "CC-BY-3.0 by Jane"), scene("one")])
    first, second = (recorded(str(tmp_path / f"objects-train-00000{k}.tar")) for k in (0, 1))
    assert (first.samples, first.bytes) == (2, shard.stat().st_size)
    assert first.licenses == {"CC0-1.0": 1, "CC-BY-3.0 by Jane": 1} and first.sources == {"objects": 2}
    assert first.fingerprint == second.fingerprint and first.sha256 != second.sha256
    assert recorded(str(tmp_path / "other.tar")) is None and recorded("pipe:cat x") is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [
        "manifest.json",
        "objects-train-000000.tar",
        "objects-train-000001.tar",
    ]


def test_a_damaged_manifest_is_named(shard):
    shard.with_name("manifest.json").write_text('{"version": 7}')
    with pytest.raises(ValueError, match="manifest.json.*version 7"):
        recorded(str(shard))


def test_a_whole_shard_is_listed_and_drawn(shard, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert main([str(tmp_path / "objects-*.tar"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    for part in (
        "2 samples",
        "2 x objects: 4 views x 5 frames, 16x24, 12 fps, cameras, caption",
        "CC-BY-3.0",
    ):
        assert part in caplog.text
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * 96, 9 * 96, 3)
    panel = sheet[:96, -96:].astype(int)
    red = (panel[..., 0] > 150) & (panel[..., 1:].max(-1) < 80)
    assert red.sum() > 20  # the first camera


def test_every_problem_is_named(shard, tmp_path, caplog):
    """A changed file, a camera that is no rotation, a missing view, another camera model; others are still read."""
    bent = encode_sample(scene("bent"))  # nothing of ours would write it
    meta = json.loads(bent["meta.json"])
    meta["c2w"][1][0][0] *= 1.1
    bent["meta.json"] = json.dumps(meta).encode()
    with wds.TarWriter(str(shard)) as tar:
        tar.write({k: v for k, v in encode_sample(scene("lost")).items() if k != "view_02.mp4"})
        tar.write(bent)
    assert main([str(shard), "--sheet", str(tmp_path / "sheet.png")]) == 1
    for part in (
        "'lost' has none of view_02",
        "'bent': camera rotations are not orthonormal",
        "sha256 is",
        "samples is 0",
    ):
        assert part in caplog.text


def test_an_unreadable_shard_is_a_problem(tmp_path, caplog):
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    assert main([str(tmp_path / "bad.tar")]) == 1
    assert "bad.tar" in caplog.text and "cannot be read" in caplog.text


def test_camera_problems():
    assert camera_problems(scene("one")) == []
    mirrored, moved, flat, half = (scene("one") for _ in range(4))
    mirrored.c2w[:, :3, 0] *= -1
    moved.c2w[0, 3, 0] = 1
    flat.intrinsics[2, 0, 0] = -20
    half.c2w = None
    messages = ["reflection", "last row", "focal lengths", "only one of"]
    for changed, message in zip((mirrored, moved, flat, half), messages):
        assert message in " ".join(camera_problems(changed))


def test_a_camera_in_front_is_drawn_below_the_point_it_looks_at():
    """Seen from behind and above, what lies ahead is higher in the picture."""
    one = scene("one")
    c2w = one.c2w[1:2]
    picture = draw_cameras(c2w, one.intrinsics[1:2], (16, 24), 96).astype(int)
    coloured = np.argwhere(picture.min(-1) < 100)
    apex_row = coloured[:, 0].max()
    assert len(coloured) > 50 and (coloured[:, 0] < apex_row - 20).any()
    columns = coloured[coloured[:, 0] >= apex_row - 2][:, 1]
    assert np.ptp(columns) < 20  # the tip is narrow, the base wide


def test_manifest_is_json_that_a_reader_without_this_project_understands(shard):
    manifest = json.loads(shard.with_name("manifest.json").read_text())
    assert manifest["version"] == 1 and list(manifest["shards"]) == [shard.name]
