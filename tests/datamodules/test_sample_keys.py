"""Keys that the shard format forbids are damage: skipped and counted in training, an error in validation."""

import io
import tarfile

import pytest

from datamodules.archives import read_archive
from scene4d.sample_format import KEY_LENGTH, SceneSample, check_key, decode_sample, encode_sample


def repacked(shard, path, rename):
    """The same shard with other member names."""
    with tarfile.open(shard) as old, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old.getmembers():
            content = old.extractfile(member).read()
            member.name = rename(member.name)
            new.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture
def shard(tmp_path, shards):
    shards(tmp_path, shards=1, samples=1, views=1, frames=1)
    return tmp_path / "objects-train-000000.tar"


@pytest.mark.parametrize(
    "prefix",
    ["../../x/", "/x/", "folder/", "./../", "a\\", "x" * (KEY_LENGTH + 1), "line\n", "broken \udcff"],
)
def test_forbidden_keys_are_damage(tmp_path, shard, prefix):
    url = repacked(shard, tmp_path / "bad.tar", lambda name: prefix + name)
    (members,) = read_archive(url)
    with pytest.raises(ValueError, match="sample key") as caught:
        decode_sample(members)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_names_behind_dot_slash_are_plain_keys(tmp_path, shard):
    """So `tar -C FOLDER -cf SHARD .` names them."""
    (members,) = read_archive(repacked(shard, tmp_path / "dot.tar", lambda name: f"./{name}"))
    assert decode_sample(members).key == "objects_0_0"


def test_keys_that_are_read_are_those_that_are_written(scene):
    sample = scene("plain", views=1, frames=1)
    for key in ("", "a.b", "a/b", "a\\b", "a\0", "x" * (KEY_LENGTH + 1)):
        with pytest.raises(ValueError, match="sample key"):
            encode_sample(SceneSample(key, "objects", sample.images, 12.0))
        with pytest.raises(ValueError, match="sample key"):
            check_key(key)
    check_key("Straße 7, objects-val_0")
