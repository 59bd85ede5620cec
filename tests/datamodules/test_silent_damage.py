"""Damage that still parses: only a checksum or the end of the archive gives it away."""

import io
import tarfile

import numpy as np
import pytest

from datamodules.archives import _files
from scene4d.sample_format import SceneSample, decode_sample, encode_sample


def test_a_member_with_other_content_is_refused():
    sample = SceneSample(
        "a", "objects", np.zeros((1, 1, 16, 16, 3), np.uint8), 12.0, text=np.ones((1, 4), np.float32)
    )
    members = encode_sample(sample)
    other = SceneSample("a", "objects", sample.images, 12.0, text=np.zeros((1, 4), np.float32))
    members["text.npy"] = encode_sample(other)["text.npy"]  # a valid array, but not this sample's
    with pytest.raises(ValueError, match="text.npy is damaged"):
        decode_sample(members)


def test_zeros_over_two_blocks_do_not_pass_for_the_end(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a.txt", "b.txt", "c.txt"):
            header = tarfile.TarInfo(name)
            header.size = 512
            tar.addfile(header, io.BytesIO(b"x" * 512))
    content = bytearray(buffer.getvalue())
    content[1024:1536] = bytes(512)  # the header of b.txt
    shard = tmp_path / "s.tar"
    shard.write_bytes(content)
    with pytest.raises(tarfile.ReadError, match="damaged|header"):
        list(_files(str(shard)))
