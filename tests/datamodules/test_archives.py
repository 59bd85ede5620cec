import http.server
import io
import tarfile
import threading
import time
from email.message import Message
from urllib.error import HTTPError

import fsspec
import pytest

from datamodules import archives
from datamodules.archives import open_shard, read_archive
from datamodules.shards import expand_urls


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Notes the waits instead."""
    waits = []
    monkeypatch.setattr(archives.time, "sleep", waits.append)
    return waits


@pytest.fixture(scope="module")
def shard(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("archives")
    shards(folder, shards=1, samples=3, views=1, frames=1)
    return folder / "objects-train-000000.tar"


class Server(http.server.ThreadingHTTPServer):
    """Serves one shard; the first `failures` requests are refused or cut off half-way."""

    def __init__(self, data, failures=0, cut=False):
        self.data, self.failures, self.cut, self.requests = data, failures, cut, 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/shard.tar"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        server = self.server
        server.requests += 1
        failing = server.requests <= server.failures
        if failing and not server.cut:
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.data)))
        self.end_headers()
        self.wfile.write(server.data[: len(server.data) // 2] if failing else server.data)

    def log_message(self, *arguments):
        pass


def content(url):
    return [{k: v for k, v in sample.items() if k != "__url__"} for sample in read_archive(url)]


def test_every_way_to_a_shard_gives_the_same_samples(shard):
    with fsspec.open("memory://bucket/shard.tar", "wb") as file:
        file.write(shard.read_bytes())
    server = Server(shard.read_bytes())
    local = content(str(shard))
    assert [sample["__key__"] for sample in local] == ["objects_0_0", "objects_0_1", "objects_0_2"]
    for url in (server.url, "memory://bucket/shard.tar", f"file://{shard}", f"pipe:cat {shard}"):
        assert content(url) == local, url
    server.shutdown()


@pytest.mark.parametrize("cut", [False, True])
def test_failing_fetch_is_retried_with_back_off_and_repeats_no_sample(shard, cut, no_waiting):
    server = Server(shard.read_bytes(), failures=2, cut=cut)
    assert content(server.url) == content(str(shard))
    assert no_waiting == [1.0, 3.0] and server.requests == 3
    server.shutdown()


def test_fetch_fails_after_three_attempts(shard, no_waiting):
    server = Server(shard.read_bytes(), failures=9)
    with pytest.raises(OSError, match="503"):
        content(server.url)
    assert server.requests == 3
    with pytest.raises(OSError, match="503"):
        list(read_archive(server.url, retry=False))
    assert server.requests == 4
    server.shutdown()


@pytest.mark.parametrize(
    "url, message", [("s3://bucket/a.tar", "Install s3fs"), ("foo://bucket/a.tar", "Protocol not known: foo")]
)
def test_what_a_retry_cannot_mend_is_said_at_once(url, message, no_waiting, monkeypatch):
    def absent(protocol):
        raise (
            ImportError("Install s3fs to access S3")
            if protocol == "s3"
            else ValueError("Protocol not known: foo")
        )

    monkeypatch.setattr(archives.fsspec, "get_filesystem_class", absent)  # s3fs may be installed here
    with pytest.raises(ValueError, match=f"'{url}' cannot be opened: {message}"):
        list(archives.read_archive(url))
    with pytest.raises(ValueError, match=f"source 'a': '{url}' cannot be opened: {message}"):
        expand_urls("a", [url])
    assert not no_waiting


@pytest.mark.parametrize("code, waits", [(404, []), (403, []), (429, [1.0, 3.0]), (503, [1.0, 3.0])])
def test_a_server_is_asked_again_only_where_it_may_answer_otherwise(code, waits, no_waiting, monkeypatch):
    def refuse(url, timeout):
        raise HTTPError(url, code, "no", Message(), None)

    monkeypatch.setattr(archives.urllib.request, "urlopen", refuse)
    with pytest.raises(HTTPError):
        list(archives.read_archive("http://127.0.0.1:9/a.tar"))
    assert no_waiting == waits


def test_local_shard_is_not_retried(tmp_path, no_waiting):
    with pytest.raises(FileNotFoundError):
        list(read_archive(str(tmp_path / "no.tar")))
    assert not no_waiting


@pytest.mark.parametrize("command", ["cat no-such-file", "exit 3", "cat {shard}; exit 3"])
def test_failing_command_raises(shard, command):
    with pytest.raises(OSError, match="exit code"), open_shard("pipe:" + command.format(shard=shard)) as file:
        file.read()


def test_silent_command_is_stopped(shard):
    begin = time.perf_counter()
    with pytest.raises(TimeoutError, match="no output"), open_shard("pipe:sleep 50", silence=0.1) as file:
        file.read()
    assert time.perf_counter() - begin < 20


def test_a_command_left_early_is_stopped(shard):
    with open_shard("pipe:yes") as file:
        assert file.read(4) == b"y\ny\n"
        process = file.raw.process
    assert process.poll() is not None


def test_long_names_and_compressed_archives_are_read(tmp_path):
    name = "k" * 150 + ".meta.json"
    for mode in ("w", "w:gz"):
        with tarfile.open(tmp_path / "long.tar", mode) as tar:
            header = tarfile.TarInfo(name)
            header.size = 2
            tar.addfile(header, io.BytesIO(b"{}"))
        assert content(str(tmp_path / "long.tar")) == [{"__key__": "k" * 150, "meta.json": b"{}"}]
