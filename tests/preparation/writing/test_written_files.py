"""Shards, manifests and reports appear whole, and with the permissions that the umask allows."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from preparation.writing.reports import report_path, write_reported
from preparation.writing.shards import write_encoded
from scene4d.sample_format import SceneSample, encode_sample


@dataclass(frozen=True)
class OneScene:
    """A job whose shard holds one still."""

    path: Path

    def recipe(self) -> dict:
        return {"scenes": 1}


def members(key: str) -> dict:
    return encode_sample(SceneSample(key, "static", np.zeros((1, 1, 8, 8, 3), np.uint8), 12.0))


@pytest.fixture
def group_may_read():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_finished_files_have_the_permissions_of_the_umask(tmp_path, group_may_read):
    job = OneScene(tmp_path / "new" / "static-train-000000.tar")
    write_reported(job, iter([members("a")]), {})
    for path in (job.path, job.path.parent / "manifest.json", report_path(job.path)):
        assert oct(path.stat().st_mode & 0o777) == oct(0o640), path.name


def test_a_failure_leaves_the_shard_and_its_manifest_as_they_were(tmp_path):
    shard = tmp_path / "static-train-000000.tar"
    assert write_encoded(shard, [members("a")]) == 1
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing():
        yield members("b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_encoded(shard, failing())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
