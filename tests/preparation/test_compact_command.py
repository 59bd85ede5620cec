"""Compact shards hold the same scenes in fewer bytes, and nothing of them needs PyAV."""

import numpy as np
import pytest

from datamodules.shards import read_shard
from preparation.compact import compacted, main
from scene4d.sample_changes import add_latents
from scene4d.sample_format import SceneSample, decode_sample, encode_sample


@pytest.fixture
def members():
    images = np.full((2, 5, 16, 24, 3), 90, np.uint8)
    images[:, :, 4:9, 5:15] = 200
    return encode_sample(
        SceneSample(
            "a", "objects", images, 12.0, c2w=np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)), caption="a box",
            depths=np.ones((2, 1, 16, 24), np.float32), depth_frames=[2], text=np.ones((1, 4), np.float32), group="g",
        )
    )  # fmt: skip


def test_all_but_depth_and_latents_stays(members):
    latents = add_latents(members, np.zeros((2, 3, 2, 2, 3)), "0123456789abcdef")
    found = compacted(latents, 90, depth=False)
    assert set(found) == {"__key__", "meta.json", "view_00.avif", "view_01.avif", "text.npy"}
    before, after = decode_sample(members), decode_sample(found)
    assert np.abs(before.images.astype(int) - after.images).max() < 12
    assert after.depths is None and after.depth_frames == []
    for name in ("key", "source", "fps", "caption", "group", "license"):
        assert getattr(before, name) == getattr(after, name)
    assert np.array_equal(before.c2w, after.c2w) and np.array_equal(before.text, after.text)


def test_depth_is_kept_on_demand(members):
    after = decode_sample(compacted(members, 75, depth=True))
    assert np.array_equal(after.depths, decode_sample(members).depths) and after.depth_frames == [2]


def test_the_command_writes_shards_and_goes_on_where_it_was(tmp_path, monkeypatch, members):
    from preparation.writing.shards import write_encoded

    source, target = tmp_path / "in" / "objects-train-000000.tar", tmp_path / "out"
    write_encoded(source, [members])
    main([str(source), "--output", str(target)])
    (sample,) = read_shard(str(target / source.name))
    assert "view_00.avif" in sample and "depth_00.png" not in sample
    monkeypatch.setattr("preparation.compact.compacted", None)  # nothing is made twice
    main([str(source), "--output", str(target)])
    with pytest.raises(SystemExit, match="compact: "):
        main([str(source), "--output", str(target), "--quality", "50"])
